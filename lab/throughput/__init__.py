"""How right the agent's throughput figures are, and whether a thousand of them in a row leave anything behind."""
