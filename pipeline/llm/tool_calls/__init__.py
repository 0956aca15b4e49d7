"""Calls of tools and reasoning in what models write: read as it streams, written, forced."""
