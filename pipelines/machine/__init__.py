"""What a machine has, how fast it is, and what that means for a recipe."""
