"""Tests of gguf_tools."""
