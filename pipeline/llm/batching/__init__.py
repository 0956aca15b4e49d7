"""Continuous batching: several answers at once from one model, and their scheduling."""
