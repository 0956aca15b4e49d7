"""Commands for long videos and for many: `timeline`, `watch` and `search`."""
