"""Measure GGUFs: perplexity and divergence, speed and memory, and a comparison of types."""
