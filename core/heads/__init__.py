"""What sits on a pre-trained encoder."""
