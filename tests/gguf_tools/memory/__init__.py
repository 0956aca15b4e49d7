"""Tests of gguf_tools.memory.estimates."""
