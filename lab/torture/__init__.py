"""Everything that can go wrong between a result and InfluxDB; then: is every result there once."""
