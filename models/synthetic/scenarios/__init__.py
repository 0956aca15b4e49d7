"""Scenarios of synthetic clips: one function each, listed in `registry`."""
