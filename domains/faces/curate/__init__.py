"""Stages of `mimkit curate faces`: scan, look, divide and pack."""
