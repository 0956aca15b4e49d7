"""Train a projector on captioned videos, such as a person's own."""
