"""What replies have in common in several protocols: blocks, event streams, log-probabilities."""
