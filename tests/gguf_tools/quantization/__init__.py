"""Tests of gguf_tools.quantization."""
