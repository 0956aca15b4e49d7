"""Errors for people: one line that says what was wrong, with which file, and what to do."""


class ReellamaError(Exception):
    """An error whose message is one line for the person at the terminal."""


class GGUFError(ReellamaError):
    """A GGUF file that is missing, cut off, damaged, or not one, or that could not be loaded."""
