"""Weights in and out, read without executing code."""
