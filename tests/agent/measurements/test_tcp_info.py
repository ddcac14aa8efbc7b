"""TCP_INFO, read from sockets that somebody else owns."""

from __future__ import annotations

import os
import socket

from agent.measurements import tcp_info


def test_what_has_arrived_is_known_at_both_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sender:
        receiver, _ = listener.accept()
        with receiver:
            sender.sendall(b"x" * 100_000)
            left = 100_000
            while left:
                left -= len(receiver.recv(left))
            ours, theirs = tcp_info.look(sender.fileno()), tcp_info.look(receiver.fileno())
    assert ours is not None
    assert theirs is not None
    assert 100_000 <= ours.acked_bytes <= 100_001, "the handshake may count as one"
    assert theirs.received_bytes == 100_000
    assert ours.data_segments_out > 0 < theirs.data_segments_in
    assert 0 < ours.rtt_us < 5_000_000


def test_what_is_no_tcp_socket_is_passed_over() -> None:
    read, write = os.pipe()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert tcp_info.look(read) is None
        assert tcp_info.look(datagrams.fileno()) is None
    os.close(read)
    os.close(write)
    assert tcp_info.look(read) is None, "closed meanwhile"


def test_the_control_connection_is_left_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        everything = len(tcp_info.connections(without=-1))
        assert len(tcp_info.connections(without=one.fileno())) == everything - 1
