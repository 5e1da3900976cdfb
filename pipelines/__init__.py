"""Things that run: one module per verb of the command line."""
