"""Task `reward_model`: Bradley–Terry on preference pairs."""
