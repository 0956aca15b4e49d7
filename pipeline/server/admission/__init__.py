"""Which requests are let in: places, by client, and for how long."""
