"""A child process with limits, for what clients send and nobody can foresee."""
