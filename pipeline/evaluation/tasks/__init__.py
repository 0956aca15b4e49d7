"""What a bundle can be evaluated on: drawn benchmarks, photographs, and people's own files."""
