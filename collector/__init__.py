"""What runs on the server: journals every result, acknowledges it, writes it to InfluxDB."""
