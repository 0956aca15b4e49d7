"""Fewer tokens of a video, without training: poolings of a vision model's tokens, and budgets."""
