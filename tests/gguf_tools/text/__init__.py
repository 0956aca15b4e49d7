"""Tests of gguf_tools.text."""
