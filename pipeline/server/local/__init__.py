"""The Unix socket by which `reellama ask` uses a running server of the same user."""
