"""Concepts: words that a video supports, learned from captions alone."""
