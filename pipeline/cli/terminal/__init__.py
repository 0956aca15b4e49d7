"""The terminal in which somebody types and reads."""
