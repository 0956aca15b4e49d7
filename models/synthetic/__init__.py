"""Synthetic video clips with exact ground truth: scenes, motions, questions, a data set of them."""
