"""Bundles, the visual tower, the temporal projector, training and evaluation."""
