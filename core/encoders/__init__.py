"""How seen tokens are represented."""
