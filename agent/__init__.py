"""What runs on a Raspberry Pi: measures over the cellular link, spools durably, publishes over MQTT."""
