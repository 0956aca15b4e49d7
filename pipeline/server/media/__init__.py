"""Pictures and videos that clients send: fetched, decoded in a child, encoded, cached."""
