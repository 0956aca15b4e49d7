"""The GGUF file format: headers validated, summed up and written."""
