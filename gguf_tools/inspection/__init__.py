"""Summaries of GGUF files for people, and the differences of two."""
