"""How likely tokens were: of an answer, and of a prompt."""
