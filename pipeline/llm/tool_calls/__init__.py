"""Tool calls and reasoning in the text of models: parsed while it streams, written, enforced."""
