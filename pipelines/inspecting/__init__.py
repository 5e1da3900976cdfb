"""Descriptions of files and folders, read without changing or trusting them."""
