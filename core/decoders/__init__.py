"""How a guess is made for a token that the encoder did not see."""
