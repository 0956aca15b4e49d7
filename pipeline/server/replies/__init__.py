"""What the protocols have in common in their answers."""
