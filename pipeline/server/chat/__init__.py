"""A chat in the form that all protocols share: what is asked, and the answer as it comes."""
