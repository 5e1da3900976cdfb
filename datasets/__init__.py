"""Storage and reading: numpy and files, no models."""
