"""How decoded frames become pictures: their turn, their shape, their light."""
