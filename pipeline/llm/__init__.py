"""Prompts of text and soft tokens in, generated tokens out; nothing of video or torch."""
