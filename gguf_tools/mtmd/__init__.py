"""libmtmd, llama.cpp's multimodal library: the visual tower of a vision GGUF."""
