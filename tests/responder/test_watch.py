"""Who is gone, who is a stranger, who never came: from the kernel's counters, and what is made of them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder import watch
from responder.lender import LOOK_EVERY_S
from responder.watch import GREETING_S, NO_PROGRESS_S, NOBODY_CAME_S, Patience, State, Traffic

if TYPE_CHECKING:
    from pathlib import Path

# ss from iproute2 6.1 (Debian 12), `ss -tinHO`, shortened.
TABLE = """\
ESTAB      0   0   [::ffff:10.0.0.1]:5201 [::ffff:10.0.0.9]:43256 cubic rto:200 bytes_acked:1000 bytes_received:37 x
ESTAB      0   99  [::ffff:10.0.0.1]:5201 [::ffff:10.0.0.9]:43258 cubic bytes_sent:9999 bytes_retrans:5 bytes_acked:5000
CLOSE-WAIT 38  0   10.0.0.1:5202 10.0.0.8:43260 cubic bytes_received:38
FIN-WAIT-1 0   77  10.0.0.1:5203 10.0.0.8:43261 cubic bytes_acked:70000
TIME-WAIT  0   0   10.0.0.1:5204 10.0.0.8:43262
"""


def test_the_table_is_read_by_port_and_what_no_process_holds_is_left_out() -> None:
    assert watch.read(TABLE) == {5201: Traffic(2, 6037), 5202: Traffic(1, 38)}


def test_of_a_machine_with_several_addresses_only_the_bound_one_counts() -> None:
    assert watch.read(TABLE, "10.0.0.1") == watch.read(TABLE) == watch.read(TABLE, "::") == watch.read(TABLE, "0.0.0.0")
    assert watch.read(TABLE, "10.0.0.2") == {}
    other = "ESTAB 0 0 [2001:db8::1]:5201 [2001:db8::9]:43256 bytes_acked:7"
    assert watch.read(other, "2001:DB8:0::1") == {5201: Traffic(1, 7)}


@given(st.text())
def test_any_text_is_read_without_a_crash(text: str) -> None:
    watch.read(text)


def test_a_real_connection_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"x" * 1234)
                assert accepted.recv(2000)
                assert watch.look(port, port) == {port: Traffic(1, 1234)}
    assert watch.look(port, port) == {}


def test_without_the_tool_the_text_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(watch.WatchError, match="ss: "):
        watch.look(1, 2)


def test_a_client_that_moves_bytes_may_stay_and_one_that_does_not_is_stuck() -> None:
    patience, now_s = Patience(0.0), 0.0
    for second in range(60):
        now_s = float(second)
        assert patience.look(Traffic(5, second + 1), now_s, admitted=True) is State.FINE
    assert patience.look(Traffic(5, 60), now_s + NO_PROGRESS_S - 0.1, admitted=True) is State.FINE
    assert patience.look(Traffic(5, 60), now_s + NO_PROGRESS_S, admitted=True) is State.STUCK


def test_a_client_that_vanished_is_noticed_in_time_for_its_slot_to_be_free_within_ten_seconds() -> None:
    patience, now_s = Patience(0.0), 0.0
    while patience.look(Traffic(2, 1000), now_s, admitted=True) is not State.STUCK:
        now_s += LOOK_EVERY_S
    assert now_s <= 8, "the rest is for a look that comes late, and for starting the next one's servers"


def test_an_outage_of_five_seconds_is_survived() -> None:
    patience = Patience(0.0)
    for tenth in range(200):
        carried = 1000 if 50 <= tenth < 100 else tenth
        assert patience.look(Traffic(1, carried), tenth / 10, admitted=True) is State.FINE


def test_whoever_does_not_show_the_password_is_a_stranger_however_much_he_sends() -> None:
    patience = Patience(0.0)
    assert patience.look(Traffic(1, 1), 1.0, admitted=False) is State.FINE
    assert patience.look(Traffic(1, 999), 1.0 + GREETING_S, admitted=False) is State.STRANGER


def test_nobody_came_and_a_run_s_next_transfer_has_time_of_its_own() -> None:
    patience = Patience(0.0)
    assert patience.look(None, NOBODY_CAME_S - 0.1, admitted=False) is State.FINE
    patience.go_on(NOBODY_CAME_S - 0.1)
    assert patience.look(None, NOBODY_CAME_S + 5, admitted=False) is State.FINE
    assert patience.look(None, 2 * NOBODY_CAME_S, admitted=False) is State.NOBODY
