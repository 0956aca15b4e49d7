"""Which requests are let in: places, by client, and for how long; and what they leave."""
