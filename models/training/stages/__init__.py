"""The stages of training: the visual tower, then the projector and the LLM's LoRA."""
