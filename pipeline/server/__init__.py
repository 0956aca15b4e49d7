"""`reellama serve`: Ollama's and OpenAI's protocols over HTTP, with video in them."""
