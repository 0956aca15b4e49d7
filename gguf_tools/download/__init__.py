"""Download GGUF files from the Hugging Face hub."""
