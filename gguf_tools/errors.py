"""Errors for people: one line that says what was wrong, with which file, and what to do."""


class ReellamaError(Exception):
    """An error whose message is one line for users."""


class GGUFError(ReellamaError):
    """A GGUF file that is missing, truncated, damaged, in another format, or cannot be loaded."""
