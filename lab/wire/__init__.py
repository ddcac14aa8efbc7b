"""What results cost on the wire and on the card: a day of the default schedule through the real parts."""
