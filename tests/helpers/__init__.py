"""What tests share: small models, servers, terminals and films made on the spot."""
