"""Computed once: blobs, entries, keys, checkpoints, housekeeping. Knows no Prefect."""
