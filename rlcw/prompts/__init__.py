"""Principles that a judge reads: text, one file per kind and language."""
