"""What domains of pictures share: statistics, normaliser, its export, and random views."""
