"""Tokenizers of a Hugging Face folder, in the terms of llama.cpp."""
