"""Child processes with limits, which process the schemas and chat templates of clients."""
