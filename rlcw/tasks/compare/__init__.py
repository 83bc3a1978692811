"""Task `compare`: arms of an experiment on held-out briefs."""
