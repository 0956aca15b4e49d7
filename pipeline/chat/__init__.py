"""Conversations about videos."""
