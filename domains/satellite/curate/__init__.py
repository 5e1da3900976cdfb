"""Stages of curation for multispectral scenes: scan, check, slice, dedup, pack."""
