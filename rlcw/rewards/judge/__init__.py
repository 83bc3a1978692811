"""Questions to language models about replies, and their verdicts."""
