"""How far apart prediction and target are, and the one place where that is averaged."""
