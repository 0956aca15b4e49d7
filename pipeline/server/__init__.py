"""`reellama serve`: Ollama's, OpenAI's and Anthropic's protocols over HTTP, with video in them."""
