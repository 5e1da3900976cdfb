"""Stages of curation for CT: scan, cut (which checks first), divide, pack."""
