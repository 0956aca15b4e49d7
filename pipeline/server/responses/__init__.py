"""OpenAI's responses, which the server remembers."""
