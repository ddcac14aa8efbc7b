"""The responder under load, beside what stock iperf3 does with the same probes; and what a fleet needs of a server."""
