"""Task `grpo`: group rollout, scoring, mixing and the GRPO update."""
