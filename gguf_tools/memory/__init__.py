"""Estimate the memory of a model, and how many of its layers fit on a GPU."""
