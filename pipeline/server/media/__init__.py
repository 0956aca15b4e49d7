"""Clients' pictures and videos: fetched, decoded in a child process, encoded, cached."""
