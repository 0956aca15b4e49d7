"""JSON bodies of requests: limits, parsing, and errors that name the field."""
