"""The lender and its processes, without a broker: real iperf3, real irtt, a clock in our hands."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from responder_helpers import echo_answers, iperf3, is_running, listens, wait_until

from base.broker import BrokerSettings
from lab.servers import free_port
from responder import servers
from responder.echo import FIRST_PAUSE_S, Echo
from responder.lender import Lender
from responder.servers import Child, ServerError
from responder.settings import Ports, Settings
from wire.leases import ARRIVE_WITHIN_S, Busy, Denied, Granted, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(pool: tuple[int, int]) -> Settings:
    return Settings(
        responder_id="here",
        broker=BrokerSettings(host="nowhere"),
        advertise_host="127.0.0.1",
        ports=Ports(first=pool[0], last=pool[1]),
        max_transfers=4,
        irtt=None,
        bind_address="127.0.0.1",
    )


@pytest.fixture
def lender(settings: Settings, clock: Clock) -> Iterator[Lender]:
    with closing(Lender(settings, clock)) as made:
        yield made


def request(request_id: str, *, transfers: int = 2, link: str = "viettel") -> LeaseRequest:
    return LeaseRequest(request_id=request_id, probe_id="probe-1", link=link, length_s=30, transfers=transfers)


def test_a_port_that_somebody_else_uses_is_not_lent_before_it_is_free(
    lender: Lender, pool: tuple[int, int], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", pool[0])):
        lender.open()
        assert f"port {pool[0]} is in use by another program" in caplog.text
        busy = lender.answer(request("1", transfers=4))
        assert isinstance(busy, Busy)
        assert 0 < busy.retry_in_s <= 60
        granted = lender.answer(request("2", transfers=3))
        assert isinstance(granted, Granted)
        assert pool[0] not in granted.ports
    clock.now_s += 61
    assert isinstance(lender.answer(request("3", transfers=4)), Granted)


def test_a_port_taken_after_the_start_is_passed_over(lender: Lender, pool: tuple[int, int]) -> None:
    lender.open()
    with socket.create_server(("127.0.0.1", pool[0])):
        granted = lender.answer(request("1", transfers=3))
        assert isinstance(granted, Granted)
        assert pool[0] not in granted.ports
        assert all(listens(port) for port in granted.ports)


def test_an_address_that_this_machine_has_not_is_denied_in_words(
    settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Lender(msgspec.structs.replace(settings, bind_address="203.0.113.77"), clock)) as lender:
        answer = lender.answer(request("1"))
    assert isinstance(answer, Denied)
    assert answer.reason == "this responder cannot start its servers; see its log"
    assert "does not listen; it said: " in caplog.text


def test_a_disk_that_takes_no_login_costs_this_lease_and_nothing_else(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_path: Path, _text: str, encoding: str) -> int:
        raise OSError(errno.ENOSPC, f"No space left on device, in {encoding}")

    with closing(Lender(settings, clock)) as lender:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(Path, "write_text", full)
            answer = lender.answer(request("1"))
        assert isinstance(answer, Denied)
        assert "No space left on device" in caplog.text
        assert lender.leases == ()
        assert isinstance(lender.answer(request("1")), Granted), "the same request, once there is room"


def test_after_the_download_alone_the_upload_server_waits_until_expiry(lender: Lender, clock: Clock) -> None:
    granted = lender.answer(request("1"))
    assert isinstance(granted, Granted)
    assert iperf3(granted.ports[0], "-R", granted=granted).returncode == 0
    lender.tick()
    assert len(lender.leases) == 1
    assert listens(granted.ports[1])

    clock.now_s += 30
    lender.tick()

    assert lender.leases == ()
    assert not listens(granted.ports[1])


def test_a_late_answer_tells_what_is_left_of_the_lease(lender: Lender, clock: Clock) -> None:
    first = lender.answer(request("1"))
    clock.now_s += 7
    again = lender.answer(request("1"))
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert (first.expires_in_s, again.expires_in_s) == (30, 23)


def test_a_lease_that_nobody_comes_for_is_free_again_long_before_it_expires(lender: Lender, clock: Clock) -> None:
    granted = lender.answer(request("1"))
    assert isinstance(granted, Granted)
    assert ARRIVE_WITHIN_S <= free_again_s(lender, clock, lambda: not lender.leases) <= 10
    assert lender.counts["nobody_came"] == 1
    assert not any(map(listens, granted.ports))


def test_whoever_waits_hears_at_once_that_it_is_his_turn(lender: Lender, clock: Clock) -> None:
    first = lender.answer(request("1", transfers=4))
    assert isinstance(first, Granted)
    later = lender.answer(msgspec.structs.replace(request("2", transfers=4, link="vina"), window_s=60.0))
    assert isinstance(later, Granted)
    assert later.starts_in_s == 30
    assert lender.take_news() == []
    assert not any(listens(port) and port not in first.ports for port in later.ports)
    while not (news := lender.take_news()):
        clock.now_s += 0.5
        lender.tick()
    [told] = news
    assert told.probe_id == "probe-1"
    assert isinstance(told.reply, Granted)
    assert (told.reply.request_id, told.reply.starts_in_s) == ("2", 0.0)
    assert told.reply.token == later.token
    assert all(map(listens, told.reply.ports))
    turn_s = clock.now_s
    assert free_again_s(lender, clock, lambda: "2" not in {lease.request_id for lease in lender.leases}) <= 10
    assert clock.now_s - turn_s >= ARRIVE_WITHIN_S, "it is expected at its turn"


def test_who_connects_and_vanishes_before_its_login_holds_the_slot_for_ten_seconds_at_most(
    lender: Lender, clock: Clock
) -> None:
    granted = lender.answer(request("1"))
    assert isinstance(granted, Granted)
    with socket.create_connection(("127.0.0.1", granted.ports[0]), timeout=5):
        assert free_again_s(lender, clock, lambda: not lender.leases) <= 10
    assert (lender.counts["strangers"], lender.counts["nobody_came"]) == (1, 1)


def test_who_vanishes_between_download_and_upload_holds_the_slot_for_ten_seconds_at_most(
    lender: Lender, clock: Clock
) -> None:
    granted = lender.answer(request("1"))
    assert isinstance(granted, Granted)
    clock.now_s += 5
    assert iperf3(granted.ports[0], "-R", granted=granted).returncode == 0
    wait_until(lambda: not listens(granted.ports[0]))
    lender.tick()
    assert ARRIVE_WITHIN_S <= free_again_s(lender, clock, lambda: not lender.leases) <= 10
    assert lender.counts["nobody_came"] == 1


def free_again_s(lender: Lender, clock: Clock, is_free: Callable[[], bool]) -> float:
    """Go on, with looks as often as in real life, until it is free; return how long that took on the test's clock."""
    since_s = clock.now_s
    while not is_free():
        clock.now_s += 0.5
        lender.tick()
    return clock.now_s - since_s


def test_a_booked_port_that_somebody_else_took_is_replaced(lender: Lender, pool: tuple[int, int], clock: Clock) -> None:
    first = lender.answer(request("1", transfers=4))
    assert isinstance(first, Granted)
    wish = msgspec.structs.replace(request("2", transfers=1, link="vina"), window_s=60.0)
    later = lender.answer(wish)
    assert isinstance(later, Granted)
    clock.now_s += 31  # the first lease expires, its servers are killed, and the booking is due
    lender._book.expire(clock.now_s)
    lender._drop(lender._tenants[first.token].lease, "over")
    with socket.create_server(("127.0.0.1", later.ports[0])):
        lender.tick()
        [told] = lender.take_news()
    assert isinstance(told.reply, Granted)
    assert told.reply.ports != later.ports
    assert pool[0] <= told.reply.ports[0] <= pool[1]
    assert lender.counts["ports_taken"] == 1


def test_a_test_over_the_limit_is_ended_by_its_server(settings: Settings) -> None:
    with closing(Lender(msgspec.structs.replace(settings, max_mbps=5))) as lender:
        granted = lender.answer(request("1", transfers=1))
        assert isinstance(granted, Granted)
        assert lender.leases[0].mbps == 5
        report = json.loads(iperf3(granted.ports[0], granted=granted).stdout)  # asks for 20 Mbit/s
        assert report["error"]


def test_without_authentication_the_client_s_address_is_noted(settings: Settings) -> None:
    with closing(Lender(msgspec.structs.replace(settings, authenticate=False))) as lender:
        granted = lender.answer(request("1"))
        assert isinstance(granted, Granted)
        assert (granted.user, granted.public_key) == ("", "")
        assert iperf3(granted.ports[0]).returncode == 0
        lender.tick()
        assert lender.clients(lender.leases[0]) == ("127.0.0.1",)


def test_asking_for_no_transfer_lends_nothing_and_leaves_the_links_lease_alone(lender: Lender) -> None:
    held = lender.answer(request("1", transfers=4))
    assert isinstance(held, Granted)
    nothing = lender.answer(request("2", transfers=0))
    assert isinstance(nothing, Granted)
    assert (nothing.ports, nothing.irtt_port) == ((), None)
    assert [lease.token for lease in lender.leases] == [held.token]
    assert all(listens(port) for port in held.ports)


def test_a_child_that_nobody_reads_does_not_stand_still() -> None:
    child = Child(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; echo; echo the end"])
    try:
        wait_until(child.ended)
        assert child.last_words() == "the end"
    finally:
        child.kill()


def test_killing_a_child_kills_what_it_started() -> None:
    child = Child(["sh", "-c", "sleep 60 & echo $!; wait"])
    assert child.wait_for(b"\n", timeout_s=10)
    grandchild = int(child.last_words())
    assert is_running(grandchild)
    child.kill()
    wait_until(lambda: not is_running(grandchild))
    child.kill()  # once more does no harm


def test_what_never_says_that_it_listens_is_given_up() -> None:
    child = Child(["sleep", "60"])
    try:
        assert not child.wait_for(b"Server listening", timeout_s=0.2)
    finally:
        child.kill()


def test_a_program_that_is_not_there_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServerError, match="iperf3: No such file"):
        Child(["iperf3"])
    assert servers.missing_tools(["iperf3"]) == ["iperf3 is not installed; run: apt install iperf3"]


def test_an_echo_server_that_dies_is_started_again_after_a_pause() -> None:
    echo = Echo(free_port(socket.SOCK_DGRAM), "127.0.0.1")
    try:
        echo.tick(0.0)
        assert echo.port is not None
        wait_until(lambda: echo.port is not None and echo_answers(echo.port))
        first = echo.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: echo.port is None)

        echo.tick(10.0)
        assert echo.pid is None, "no pause"
        echo.tick(10.0 + FIRST_PAUSE_S)
        assert echo.pid not in {None, first}
        wait_until(lambda: echo.port is not None and echo_answers(echo.port))
    finally:
        echo.close()
    assert echo.port is None


def test_an_echo_server_that_cannot_start_is_tried_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        echo = Echo(taken.getsockname()[1], "127.0.0.1")
        now_s = 0.0
        try:
            for _ in range(3):
                echo.tick(now_s)
                wait_until(lambda: echo.port is None)
                echo.tick(now_s)
                now_s = echo._next_s
        finally:
            echo.close()
    pauses = [record.args[-1] for record in caplog.records if isinstance(record.args, tuple) and "irtt" in record.msg]
    assert pauses == [1.0, 2.0, 4.0]
    assert "in use" in caplog.text


def test_who_lends_tells_how_busy_its_network_is(lender: Lender, clock: Clock) -> None:
    told = []
    for number in range(3):
        reply = lender.answer(request(str(number), transfers=0))
        assert isinstance(reply, Granted)
        told.append(reply.load_percent)
        clock.now_s += 1.0
    assert told[0] is None, "nothing is known before the second look"
    assert told[2] is not None
    assert told[2] >= 0.0
