"""What a GGUF is worth: perplexity and divergence, speed and memory, and types compared."""
