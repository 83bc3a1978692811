"""Data that the package ships: briefs with rules, preference pairs."""
