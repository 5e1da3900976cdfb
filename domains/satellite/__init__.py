"""Multispectral satellite archives."""
