"""Bytes: reading by position, checksums, and writing that is all or nothing."""
