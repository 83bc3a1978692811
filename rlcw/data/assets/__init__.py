"""Data that the package ships: briefs, preference pairs, themes, prompts."""
