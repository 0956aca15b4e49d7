"""Prompts of text and soft tokens in, generated tokens out. Nothing here knows video or torch."""
