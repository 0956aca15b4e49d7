"""Other programs: the plugin for `llm`, and bundles for Ollama."""
