"""Writers of results in the formats and on the grid of what was read."""
