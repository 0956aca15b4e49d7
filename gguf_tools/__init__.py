"""GGUF files: find, read, tokenize, fit to memory, and load safely with llama.cpp."""
