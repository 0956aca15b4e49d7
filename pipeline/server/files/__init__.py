"""Files that clients send once and name in their requests."""
