"""IFBench's rules (Pyatkin et al. 2025, arXiv 2507.02833), by its verdicts."""
