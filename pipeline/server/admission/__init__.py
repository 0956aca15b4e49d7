"""Which requests are admitted, and whose work is next: fair shares between clients."""
