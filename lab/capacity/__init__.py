"""What a fleet of any size asks of the servers behind it."""
