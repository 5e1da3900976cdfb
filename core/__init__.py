"""The method core: pure torch, knows no domain, no file format and no command line."""
