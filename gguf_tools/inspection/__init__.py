"""What a GGUF file holds, for people, and how two of them differ."""
