"""Train a bundle: configs, the trainer, the frozen LLM with LoRA, and the stages in order."""
