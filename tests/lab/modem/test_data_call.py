"""A data call: CONNECT, then bytes both ways, until either side hangs up."""

# ruff: noqa: ANN001  # fixtures are typed where they are made: conftest.py

from __future__ import annotations

import threading

import pytest

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def echo(network) -> None:
    while data := network.recv(4096):
        network.sendall(data)


def test_bytes_go_both_ways_after_connect_and_at_is_back_after_the_escape(plug_in, call) -> None:
    modem = plug_in("quectel-ec25", on_data=echo)
    caller = call(modem)
    assert caller.lines("ATD*99***1#") == ["CONNECT 150000000"]
    frames = bytes(range(256)) * 40
    caller.write(frames)
    assert caller.read_until(lambda heard: len(heard) >= len(frames)) == frames
    caller.write(b"+++")
    assert caller.read_until(lambda heard: heard.endswith(b"OK\r\n")) == b"\r\nOK\r\n"
    assert caller.final("AT") == "OK"


def test_a_network_that_hangs_up_is_no_carrier(plug_in, call) -> None:
    modem = plug_in("simcom-sim7600", on_data=lambda network: network.sendall(b"bye"))
    caller = call(modem)
    caller.write(b"ATD*99#\r")
    heard = caller.read_until(lambda heard: heard.endswith(b"NO CARRIER\r\n"))
    assert heard.endswith(b"\r\nCONNECT 115200\r\nbye\r\nNO CARRIER\r\n")
    assert caller.final("AT") == "OK"


@pytest.mark.parametrize("hand", ["unplug", "lose", "close"])
def test_every_hang_up_ends_the_hook(hand: str, plug_in, call) -> None:
    ended = threading.Event()

    def network(data) -> None:
        echo(data)
        ended.set()

    modem = plug_in(on_data=network)
    caller = call(modem)
    assert caller.final("ATD*99***1#").startswith("CONNECT")
    if hand == "unplug":
        modem.unplug()
    elif hand == "lose":
        modem.fault("no-service")
        assert caller.read_until(lambda heard: heard.endswith(b"NO CARRIER\r\n"))
    else:
        caller.serial.close()
    assert ended.wait(8)


def test_a_closed_port_is_a_dropped_dtr_and_the_next_opener_has_a_command_line(plug_in, call) -> None:
    ended = threading.Event()

    def network(data) -> None:
        echo(data)
        ended.set()

    modem = plug_in(on_data=network)
    caller = call(modem)
    assert caller.final("ATD*99***1#").startswith("CONNECT")
    caller.serial.close()
    assert ended.wait(8)
    assert call(modem).final("AT") == "OK"


def test_only_defined_contexts_of_a_registered_modem_connect(plug_in, call) -> None:
    caller = call(plug_in())
    assert caller.lines("ATD*99***7#") == ["NO CARRIER"]
    assert caller.lines("ATD*98#") == ["NO CARRIER"]
    assert caller.lines("ATO") == ["NO CARRIER"]


def test_a_megabyte_passes_unharmed(plug_in, call) -> None:
    total = 1_000_000
    modem = plug_in(on_data=lambda network: network.sendall(bytes(index % 251 for index in range(total))))
    caller = call(modem)
    caller.write(b"ATD*99***1#\r")
    heard = caller.read_until(lambda heard: heard.endswith(b"NO CARRIER\r\n"), 30)
    body = heard.partition(b"CONNECT 150000000\r\n")[2].removesuffix(b"\r\nNO CARRIER\r\n")
    assert body == bytes(index % 251 for index in range(total))
