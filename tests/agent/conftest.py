"""Parts that tests of the agent share."""
