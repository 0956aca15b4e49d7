"""Training on real footage with captions: concepts first, without the LLM, then its adapter."""
