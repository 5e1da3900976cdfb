"""What the curation of every domain shares: records, checksums and look-alikes, parts."""
