"""Tests of gguf_tools.measuring."""
