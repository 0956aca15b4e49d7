"""Convert a Hugging Face folder of safetensors to a GGUF file, without torch."""
