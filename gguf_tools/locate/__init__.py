"""Find the GGUF file for a name, in the stores of all programs on this machine."""
