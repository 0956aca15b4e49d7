"""How much memory a model takes, and how many of its layers fit on a GPU."""
