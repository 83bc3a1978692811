"""Rules that a function can check, and their wording in briefs."""
