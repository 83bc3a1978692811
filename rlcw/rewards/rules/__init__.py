"""Rules that a program can check, and their wordings in briefs."""
