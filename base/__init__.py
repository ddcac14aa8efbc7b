"""What agent, collector and responder share besides the wire: configuration files, the broker, logs, SQLite."""
