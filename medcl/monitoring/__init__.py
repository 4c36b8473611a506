"""Looking at embeddings while they are learned: pure functions, nothing is optimised here."""
