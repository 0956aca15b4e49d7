"""Quantize GGUFs with llama.cpp: types, importance matrices, and merged LoRA adapters."""
