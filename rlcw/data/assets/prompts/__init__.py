"""Prompt templates and principles: text, one file per kind and language."""
