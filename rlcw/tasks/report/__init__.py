"""Task `report`: a page about a run."""
