"""Questions to a language model about replies, and its verdicts."""
