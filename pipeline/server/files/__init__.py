"""The Files API: files that clients upload once and refer to in requests."""
