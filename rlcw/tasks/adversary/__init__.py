"""Task `adversary`: a game that improves a judge's principles."""
