"""Tokens of a vision model, pooled over time and space without training."""
