"""Device meshes, processes, checkpoints, metrics and files."""
