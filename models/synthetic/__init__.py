"""Synthetic video clips with exact ground truth: scenes, motions, questions, and a data set."""
