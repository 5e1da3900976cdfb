"""The parts of `mimkit benchmark`, one file each, and what they share."""
