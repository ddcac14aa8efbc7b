"""How fast the collector is, beside what else would do its work."""
