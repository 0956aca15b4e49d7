"""OpenAI's Responses API, whose responses the server stores."""
