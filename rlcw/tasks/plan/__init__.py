"""Task `plan`: memory and time of a training step on a named TPU slice."""
