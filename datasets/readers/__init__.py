"""File formats in, arrays with geometry out."""
