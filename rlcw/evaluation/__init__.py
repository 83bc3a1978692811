"""Held-out replies, statistics, win rates, diversity, plots and pages."""
