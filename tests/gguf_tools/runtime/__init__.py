"""Tests of gguf_tools.runtime."""
