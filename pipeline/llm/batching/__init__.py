"""Several answers side by side from one model, and whose turn it is."""
