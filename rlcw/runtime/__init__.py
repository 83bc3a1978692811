"""Meshes, processes, checkpoints, metrics and files."""
