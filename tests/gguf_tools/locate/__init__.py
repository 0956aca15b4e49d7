"""Tests of gguf_tools.locate."""
