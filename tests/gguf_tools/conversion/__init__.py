"""Tests of gguf_tools.conversion."""
