"""Split, joined and edited copies of a GGUF; the tensors stay what they are, byte for byte."""
