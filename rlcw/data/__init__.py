"""Readers of record files and datasets, and batching of their records."""
