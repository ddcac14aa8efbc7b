"""Who is gone, who is a stranger, who never came: from the kernel's counters, and what is made of them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder import watch
from responder.lender import LOOK_EVERY_S
from responder.watch import GREETING_S, NO_PROGRESS_S, Patience, Seen, State, Traffic
from wire.leases import ARRIVE_WITHIN_S

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


class Lease:
    """A lease's two servers, looked at as the lender does; what happens there is told by `download` and `upload`."""

    def __init__(self) -> None:
        self.patience, self.now_s = Patience(0.0), 0.0
        self.download: Seen | None = ABSENT
        self.upload: Seen | None = ABSENT
        self.state, self.thrown_out = State.FINE, 0

    def go_on(self, seconds: float) -> None:
        """Look twice a second until so many have passed, or the lease is freed."""
        end_s = self.now_s + seconds
        while self.now_s < end_s and self.state is State.FINE:
            self.now_s += LOOK_EVERY_S
            servers = {port: seen for port, seen in ((1, self.download), (2, self.upload)) if seen is not None}
            self.state, strangers = self.patience.look(servers, self.now_s)
            self.thrown_out += len(strangers)
            if 1 in strangers:
                self.download = ABSENT
            if 2 in strangers:
                self.upload = ABSENT

    def done(self) -> None:
        """End the download."""
        self.download = None
        self.patience.go_on(self.now_s)

    def freed_after_s(self) -> float:
        """Go on to the end; return how long it took."""
        since_s = self.now_s
        self.go_on(200)
        assert self.state is not State.FINE
        return self.now_s - since_s


ABSENT = Seen(None, admitted=False)
SILENT = Seen(Traffic(1, 37), admitted=False)
GOAL_S = 10.0
REST_S = 0.5
"""Of the goal, for a look that comes late and for starting the next one's servers."""


def moving(carried: int) -> Seen:
    return Seen(Traffic(5, carried), admitted=True)


def test_a_client_that_moves_bytes_may_stay_and_one_that_does_not_is_stuck() -> None:
    lease = Lease()
    for second in range(60):
        lease.download = moving(second)
        lease.go_on(1)
    assert lease.state is State.FINE
    assert NO_PROGRESS_S - 1 <= lease.freed_after_s() <= GOAL_S - REST_S
    assert lease.state is State.STUCK


def test_an_outage_of_five_seconds_is_survived() -> None:
    lease = Lease()
    for tenth in range(200):
        lease.download = moving(1000 if 50 <= tenth < 100 else tenth)
        lease.state, _ = lease.patience.look({1: lease.download, 2: ABSENT}, tenth / 10)
        assert lease.state is State.FINE


def test_whoever_does_not_show_the_password_is_a_stranger_however_much_he_sends() -> None:
    patience = Patience(0.0)
    for second in range(6):
        servers = {1: Seen(Traffic(1, 100 * second), admitted=False), 2: moving(second)}
        assert patience.look(servers, 1.0 + second) == (
            (State.FINE, (1,)) if second >= GREETING_S else (State.FINE, ())
        )


def test_who_vanishes_after_the_grant_is_waited_for_no_longer_than_ten_seconds() -> None:
    lease = Lease()
    assert ARRIVE_WITHIN_S <= lease.freed_after_s() <= GOAL_S - REST_S
    assert lease.state is State.NOBODY


@pytest.mark.parametrize("came_after_s", [0.0, 3.0, 6.0, 8.5])
def test_who_connects_and_vanishes_before_the_login_holds_the_slot_for_ten_seconds_at_most(came_after_s: float) -> None:
    lease = Lease()
    lease.go_on(came_after_s)
    lease.download = SILENT
    assert lease.freed_after_s() <= GOAL_S - REST_S
    assert lease.thrown_out == 1


def test_who_vanishes_between_download_and_upload_holds_the_slot_for_ten_seconds_at_most() -> None:
    lease = Lease()
    for second in range(20):
        lease.download = moving(second)
        lease.go_on(1)
    lease.done()
    assert ARRIVE_WITHIN_S <= lease.freed_after_s() <= GOAL_S - REST_S


@pytest.mark.parametrize("pause_s", [0.5, 3.0, 8.0])
def test_a_slow_honest_client_is_served_however_its_transfers_lie(pause_s: float) -> None:
    """Late with its first connection, slow with its login, and slow again between its transfers."""
    lease = Lease()
    lease.go_on(8.5)
    lease.download = SILENT
    lease.go_on(4)
    for second in range(10):
        lease.download = moving(second)
        lease.go_on(1)
    lease.download = ABSENT  # its sockets are closed a moment before its server ends
    lease.go_on(1)
    lease.done()
    lease.go_on(pause_s)
    lease.upload = SILENT
    lease.go_on(4)
    lease.upload = moving(1)
    lease.go_on(1)
    assert (lease.state, lease.thrown_out) == (State.FINE, 0)


def test_strangers_who_come_again_and_again_keep_no_absent_client_s_slot() -> None:
    lease = Lease()
    while lease.state is State.FINE and lease.now_s < 100:
        lease.download = SILENT
        lease.go_on(LOOK_EVERY_S)
    assert lease.now_s <= ARRIVE_WITHIN_S + GREETING_S + LOOK_EVERY_S
