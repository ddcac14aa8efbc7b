"""What runs beside the iperf3 servers: lends single-use servers by lease."""
