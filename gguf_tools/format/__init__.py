"""The GGUF file format: headers read without trust, summed up, compared and written."""
