"""Tests of gguf_tools.format."""
