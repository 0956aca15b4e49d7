"""Video in, words out."""
