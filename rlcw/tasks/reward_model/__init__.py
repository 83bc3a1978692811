"""Task `reward_model`: a writing reward from preference pairs."""
