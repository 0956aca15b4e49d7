"""Logs, counts and health, for whoever runs the server."""
