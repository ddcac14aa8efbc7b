"""What an agent costs while it waits, beside others of its kind."""
