"""Borrowing a test server by lease: which responder is asked, what it is told, and how long is waited for the turn."""

from __future__ import annotations

import logging
import random
import re
import subprocess
import threading
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from agent.measurements.base import MeasurementFailed
from agent.measurements.throughput import Login
from agent.resolver import resolve
from wire.leases import ARRIVE_WITHIN_S, Busy, Granted, LeaseReply
from wire.reasons import Reason
from wire.results import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from agent.clock import Clock
    from agent.path import LinkPath

log = logging.getLogger(__name__)

ANSWER_WITHIN_S: Final = 15.0
WAIT_AT_MOST_S: Final = 120.0
"""How long a run waits for its turn if its job says nothing else, before it gives up as `busy`."""

LONGEST_WINDOW_S: Final = 300.0
"""How long any run waits at most: with a longer wait the probe's other jobs would stand still."""

LONGEST_PAUSE_S: Final = 8.0
"""A lease usually ends long before it expires, so the responder is asked again sooner than it says."""

ON_THE_WAY_S: Final = 2.5
"""What of ARRIVE_WITHIN_S the answer takes to wake the radio and come here (1.3 s at a round trip of 600 ms), and the
first transfer to start and connect (1.2 s; or less of both, and one packet that is sent again)."""

LATE_WORD_S: Final = 1.0
"""How long after the promised start the word that the servers listen is waited for."""

POSTPONED_FROM_S: Final = 5.0
"""What takes longer than an answer takes, and the start of the servers, was a wait for others."""

LOOK_AROUND_S: Final = 1.0
LOOK_AROUND_EVERY_S: Final = 6 * 3600.0
_RTT: Final = re.compile(r"= (?P<min>[\d.]+)/")


class Wish(NamedTuple):
    """What a run asks for; see `wire.leases.LeaseRequest`. Without `responder` everyone who hears it is asked."""

    link: str
    transfers: int
    length_s: float
    window_s: float = 0.0
    expected_mbps: float | None = None
    operator: str | None = None
    cell: str | None = None
    responder: str | None = None


class Habits:
    """What is known about responders and links, as long as the agent runs. `order`: the responders to ask, if told."""

    def __init__(self, order: Sequence[str] = ()) -> None:
        self.order = tuple(order)
        self.mbps: dict[str, float] = {}
        self.found: tuple[str, ...] = ()
        self.looked_around_s = float("-inf")


class Lender(Protocol):
    """Whoever carries lease requests: the publisher, over MQTT."""

    @property
    def habits(self) -> Habits:
        """What was learnt so far."""
        ...

    def ask(self, wish: Wish) -> AbstractContextManager[Callable[[float], LeaseReply | None]]:
        """Ask once; inside, each call gives the next answer, or None if none comes within so many seconds."""
        ...


class Borrowed(Server, frozen=True, kw_only=True):
    """A server and, where the responder has one, its echo port; what travels is the plain `Server`."""

    irtt_port: int | None = None
    login: Login | None = None
    ends_s: float | None = None
    """When the lease ends, on the agent's steady clock."""
    begin_by_s: float | None = None
    """Until when the first transfer must have been started, lest the servers are given to somebody else; as above."""

    def plain(self) -> Server:
        """Name the server as the wire does."""
        return Server(
            host=self.host,
            ports=self.ports,
            responder=self.responder,
            lease=self.lease,
            load_percent=self.load_percent,
            waited_s=self.waited_s,
        )


def borrow(lender: Lender, clock: Clock, wish: Wish, *, path: LinkPath | None = None) -> Borrowed:
    """Borrow servers, waiting for the turn for `wish.window_s` at most; raise MeasurementFailed."""
    asked_s = clock.monotonic_s()
    give_up_s = asked_s + wish.window_s
    while True:
        left_s = max(give_up_s - clock.monotonic_s(), 0.0)
        reply = _ask_in_turn(lender, clock, wish._replace(window_s=left_s), path)
        if isinstance(reply, Granted):
            now_s = clock.monotonic_s()
            return _borrowed(reply, now_s, waited_s=now_s - asked_s)
        if not isinstance(reply, Busy):
            raise MeasurementFailed(Reason.REFUSED, f"{reply.responder} denied the lease: {reply.reason}")
        pause_s = min(max(reply.retry_in_s, 0.2), LONGEST_PAUSE_S) * random.uniform(1.0, 1.3)  # noqa: S311  # spreads, hides nothing
        if clock.monotonic_s() + pause_s > give_up_s:
            raise MeasurementFailed(Reason.BUSY, f"{reply.responder} had no turn for us within {wish.window_s:.0f} s")
        log.info("%s: responder busy, asking again in %.1f s", wish.link, pause_s)
        threading.Event().wait(pause_s)


def _ask_in_turn(lender: Lender, clock: Clock, wish: Wish, path: LinkPath | None) -> LeaseReply:
    """Ask the responders in order: first for servers that are free now, then for a turn; raise MeasurementFailed."""
    known = lender.habits.order or _look_around(lender, clock, wish, path)
    if len(known) <= 1:
        rounds = [wish._replace(responder=name) for name in known or (None,)]
    else:
        now = [wish._replace(responder=name, window_s=0.0) for name in known]
        rounds = now + [wish._replace(responder=name) for name in known]
    last: LeaseReply | None = None
    silent: set[str | None] = set()
    for asked in rounds:
        if asked.responder in silent:
            continue
        reply = _hear(lender, clock, asked)
        if isinstance(reply, Granted):
            return reply
        if reply is None:
            silent.add(asked.responder)
        last = reply or last
    if last is not None:
        return last
    lender.habits.looked_around_s = float("-inf")
    raise MeasurementFailed(Reason.NO_LEASE, f"no responder answered within {ANSWER_WITHIN_S:.0f} s")


def _hear(lender: Lender, clock: Clock, wish: Wish) -> LeaseReply | None:
    """Ask one, and wait for its promised turn, which may come sooner than promised."""
    with lender.ask(wish) as next_answer:
        reply = next_answer(ANSWER_WITHIN_S)
        while isinstance(reply, Granted) and reply.starts_in_s > 0:
            if reply.starts_in_s > wish.window_s:
                return Busy(request_id=reply.request_id, responder=reply.responder, retry_in_s=reply.starts_in_s)
            log.info("%s: %s has a turn for us in %.0f s at the latest", wish.link, reply.responder, reply.starts_in_s)
            heard_s = clock.monotonic_s()
            newer = next_answer(reply.starts_in_s + LATE_WORD_S)
            if newer is None:
                left_s = reply.expires_in_s - (clock.monotonic_s() - heard_s)
                return msgspec.structs.replace(reply, expires_in_s=left_s, starts_in_s=0.0)
            reply = newer
        return reply


def _look_around(lender: Lender, clock: Clock, wish: Wish, path: LinkPath | None) -> tuple[str, ...]:
    """Find out now and then which responders there are; the nearest by round trip over the link comes first."""
    habits = lender.habits
    if clock.monotonic_s() - habits.looked_around_s < LOOK_AROUND_EVERY_S:
        return habits.found
    hosts: dict[str, str] = {}
    with lender.ask(Wish(wish.link, transfers=0, length_s=LOOK_AROUND_S)) as next_answer:
        reply = next_answer(ANSWER_WITHIN_S)
        while reply is not None:
            if isinstance(reply, Granted):
                hosts.setdefault(reply.responder, reply.host)
            reply = next_answer(LOOK_AROUND_S)
    if hosts:
        habits.looked_around_s = clock.monotonic_s()
    near = {name: _rtt_ms(host, path) if len(hosts) > 1 else 0.0 for name, host in hosts.items()}
    habits.found = tuple(sorted(near, key=lambda name: (near[name], name)))
    if len(near) > 1:
        log.info(
            "%s: responders by round trip: %s", wish.link, ", ".join(f"{n} {near[n]:.0f} ms" for n in habits.found)
        )
    return habits.found


def _rtt_ms(host: str, path: LinkPath | None) -> float:
    """Smallest of three round trips over that link, the look-up too; infinite if none came back."""
    by = ["-I", path.interface] if path is not None else []
    try:
        host = resolve(path, host) if path is not None else host
        done = subprocess.run(
            ["ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", *by, "--", host],
            capture_output=True,
            text=True,
            check=False,
            timeout=8,
        )
    except (OSError, subprocess.TimeoutExpired, MeasurementFailed):
        return float("inf")
    match = _RTT.search(done.stdout)
    return float(match["min"]) if match is not None else float("inf")


def _borrowed(reply: Granted, now_s: float, *, waited_s: float) -> Borrowed:
    return Borrowed(
        host=reply.host,
        ports=reply.ports,
        responder=reply.responder,
        lease=reply.request_id,
        irtt_port=reply.irtt_port,
        login=Login(reply.user, reply.token, reply.public_key) if reply.user else None,
        ends_s=now_s + reply.expires_in_s if reply.ports else None,
        begin_by_s=now_s + ARRIVE_WITHIN_S - ON_THE_WAY_S if reply.ports else None,
        load_percent=reply.load_percent,
        waited_s=round(waited_s, 1) if reply.ports and waited_s >= POSTPONED_FROM_S else None,
    )
