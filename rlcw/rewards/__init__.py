"""Scores of a reply: rules, writing, judges, and the mix of them."""
