"""Tests of gguf_tools.download."""
