"""Task `curate`: preference pairs from debating agents."""
