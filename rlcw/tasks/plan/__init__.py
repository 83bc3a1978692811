"""Task `plan`: memory and time of a GRPO step on a named TPU slice."""
