"""The commands of `reellama`, a module each."""
