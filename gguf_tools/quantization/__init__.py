"""Quantize a GGUF with llama.cpp: types, importance matrices, and adapters merged in."""
