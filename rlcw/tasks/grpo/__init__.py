"""Task `grpo`: group rollout, scoring, mixing and the GRPO update.

Start with `step`, one step from briefs to the batch; `objective` is the update.
"""
