"""Logs, counts and health, for those who run the server."""
