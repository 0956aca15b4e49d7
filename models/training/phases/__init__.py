"""The phases of a stage on synthetic clips: the tower, then the projector and the LLM's LoRA."""
