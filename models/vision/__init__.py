"""The visual tower: frames to a grid of features, and ImageNet's labels for it."""
