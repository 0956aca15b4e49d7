"""The server for its own user on this machine: `reellama ask` finds it by a Unix socket."""
