"""TCP download and upload by iperf3 over one link, and whether the interface's own counters bear the figures out.

Each transfer is a child process (`agent.measurements.iperf_child`) with a hard deadline. Its sockets are bound to the
link's device (SO_BINDTODEVICE) and to its address: an address alone does not keep packets off the default route. What
iperf3 reports is read in `agent.measurements.iperf_report`.
"""

from __future__ import annotations

import json
import logging
import math
import random
import socket
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent import path as paths
from agent.measurements import family, iperf_report
from agent.measurements.base import MeasurementFailed, require_up, run_killable
from agent.measurements.round_trips import ECHO_BYTES, ENDS_WITHIN_S, INTERVAL_S, Echoes
from agent.measurements.throughput_options import (
    KILL_AFTER_S,
    PAUSE_S,
    PROBE_TIMEOUT_S,
    ThroughputOptions,
)
from agent.path import Counters, LinkPath
from wire.reasons import Invalid, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.measurements.base import Finished
    from agent.measurements.iperf_report import Report
    from wire.measured import RoundTrips, Transfer
    from wire.results import Server

log = logging.getLogger(__name__)

RECEIVE_TIMEOUT_S: Final = 6
"""A download that brings nothing for so long is over: an outage of 5 s passes (and is marked as a gap)."""
CHILD: Final = (sys.executable, "-P", "-m", "agent.measurements.iperf_child")

_LEAST_BYTES: Final = 3_000_000
"""A transfer is not begun with less left to spend."""

_TURNED_AWAY: Final = {Reason.BUSY, Reason.REFUSED, Reason.TIMEOUT, Reason.UNREACHABLE, Reason.NAME_NOT_RESOLVED}
"""Failures before the first byte that say something about this server only."""


class Measured(NamedTuple):
    """What a run brought. `spent_bytes`: both directions on the link's interface, all transfers and echoes."""

    download: Transfer
    upload: Transfer | None
    upload_failure: Reason | None
    invalid: tuple[Invalid, ...]
    spent_bytes: int
    idle: RoundTrips | None = None


class Login(NamedTuple):
    """Who we are to a server that asks: iperf3's own authentication. `public_key`: the server's, PEM."""

    user: str
    password: str
    public_key: str

    def __repr__(self) -> str:
        """Keep the password out of logs and tracebacks."""
        return f"Login(user={self.user!r}, password=***)"


class _Ended(NamedTuple):
    transfer: Transfer
    invalid: tuple[Invalid, ...]


class Terms(NamedTuple):
    """What a run must know beside its options.

    `left_bytes`: what the interface may carry, both directions and all transfers; a transfer that would carry more is
    ended gracefully, is kept and is no sample. `last_mbps`: the link's last speed. `irtt_port`: where the server's host
    answers echoes. `echoes`: what is known of hosts by address; a run adds its own. `begin_within_s`: how soon the
    first transfer must start, for the server to be there still; the echoes before it make way.
    """

    login: Login | None = None
    left_bytes: int | None = None
    last_mbps: float | None = None
    irtt_port: int | None = None
    echoes: dict[str, Echoes] | None = None
    begin_within_s: float | None = None


_NO_TERMS: Final = Terms()


def run(path: LinkPath, server: Server, options: ThroughputOptions, terms: Terms = _NO_TERMS) -> Measured:
    """Measure download, then upload, over `path`; raise MeasurementFailed if there is no download figure.

    The first of `server.ports` serves the download, the last the upload. Takes at most `options.longest_s`, and leaves
    no process behind however it ends.
    """
    require_up(path)
    begun_s = time.monotonic()
    # libiperf looks names up before it binds, and cannot be interrupted while it does.
    path, address = family.choose(path, server.host, options.family)
    before = paths.counters()
    known = terms.echoes if terms.echoes is not None else {}
    echoes = known.setdefault(address, Echoes(path, address, terms.irtt_port))
    within_s = terms.begin_within_s - (time.monotonic() - begun_s) if terms.begin_within_s is not None else math.inf
    idle = echoes.idle(options.idle_s, within_s)
    trip = _Trip(path, address, options.at_rtt(idle), terms.login, options.cap_bytes(terms.last_mbps), echoes)
    left_bytes = _left(terms, path, before)
    if left_bytes is not None and left_bytes < _LEAST_BYTES:
        raise MeasurementFailed(Reason.QUOTA_REACHED, f"the plan has {left_bytes / 1e6:.1f} MB left for it")
    down = _transfer(trip, server.ports[0], reverse=True, left_bytes=left_bytes)
    up: _Ended | None = None
    upload_failure: Reason | None = None
    left_bytes = _left(terms, path, before)
    if options.upload and left_bytes is not None and left_bytes < _LEAST_BYTES:
        upload_failure = Reason.QUOTA_REACHED
    elif options.upload:
        time.sleep(PAUSE_S)
        try:
            up = _transfer(trip, server.ports[-1], reverse=False, left_bytes=left_bytes)
        except MeasurementFailed as failure:
            log.warning("%s: no upload: %s", path.interface, failure)
            upload_failure = failure.reason
    return Measured(
        download=down.transfer,
        upload=up.transfer if up is not None else None,
        upload_failure=upload_failure,
        invalid=tuple(dict.fromkeys(down.invalid + (up.invalid if up is not None else ()))),
        spent_bytes=carried(path.interface, before, paths.counters())[0].both_bytes,
        idle=idle,
    )


def run_in_turn(
    path: LinkPath,
    servers: Sequence[Server],
    options: ThroughputOptions,
    *,
    patience_s: float,
    terms: Terms = _NO_TERMS,
) -> tuple[Measured, Server]:
    """Measure with the first of `servers` that takes us; return it too; raise MeasurementFailed.

    A server that refuses or does not answer is passed over; those that are merely busy are asked again, after pauses
    that double from 1 s, until `patience_s` have gone by. Once test data has flowed nothing is tried again.
    """
    give_up_s = time.monotonic() + patience_s
    pause_s = 1.0
    candidates = list(servers)
    terms = terms._replace(echoes={})  # who is merely busy is not sent the idle echoes again
    while True:
        for server in tuple(candidates):
            try:
                return run(path, server, options, terms), server
            except MeasurementFailed as failure:
                if failure.begun or failure.reason not in _TURNED_AWAY:
                    raise
                if failure.reason is not Reason.BUSY:
                    candidates.remove(server)
                    if not candidates:
                        raise
                log.info("%s: %s; trying on", path.interface, failure)
        wait_s = pause_s * random.uniform(0.5, 1.5)  # noqa: S311  # spreads probes, hides nothing
        if time.monotonic() + wait_s > give_up_s:
            names = ", ".join(f"{server.host}:{server.ports[0]}" for server in candidates)
            raise MeasurementFailed(Reason.BUSY, f"busy for {patience_s:.0f} s: {names}")
        time.sleep(wait_s)
        pause_s = min(pause_s * 2, 16.0)


class _Trip(NamedTuple):
    """What both transfers of a run have in common."""

    path: LinkPath
    address: str
    options: ThroughputOptions
    login: Login | None
    max_bytes: int | None
    echoes: Echoes

    def job(self, port: int, *, reverse: bool, left_bytes: int | None) -> dict[str, object]:
        """Write what the child is to do."""
        options = self.options
        ports_taken = 0 if reverse else options.streams
        return {
            "host": self.address,
            "port": port,
            "reverse": reverse,
            "source": self.path.source_address,
            "device": self.path.interface,
            "duration_s": options.duration_s,
            "omit_s": options.omit_s,
            "streams": options.streams,
            "congestion": options.congestion,
            "interval_s": options.interval_s,
            "max_bytes": self.max_bytes,
            "left_bytes": left_bytes,
            "connect_timeout_s": options.connect_timeout_s,
            "receive_timeout_s": RECEIVE_TIMEOUT_S,
            "deadline_s": options.deadline_s,
            "login": self.login._asdict() if self.login is not None else None,
            "client_port": options.client_port + ports_taken if options.client_port is not None else None,
        }


def _transfer(trip: _Trip, port: int, *, reverse: bool, left_bytes: int | None) -> _Ended:
    path, options = trip.path, trip.options
    job = json.dumps(trip.job(port, reverse=reverse, left_bytes=left_bytes)).encode()
    deadline_s = options.deadline_s + KILL_AFTER_S
    before = paths.counters()
    send_s = options.omit_s + options.duration_s
    with trip.echoes.meanwhile(send_s if options.loaded_latency else 0) as beside:
        finished = run_killable(CHILD, deadline_s=deadline_s, stdin=job)
    after = paths.counters()
    where = f"{'download' if reverse else 'upload'}, {trip.address}:{port}"
    report = answer(finished, path, (trip.address, port), where)
    try:
        transfer = iperf_report.transfer(report, reverse=reverse, options=options)
    except MeasurementFailed as failure:
        again = MeasurementFailed(failure.reason, f"{where}: {failure.detail}", begun=True)
        again.pace_bytes_per_s = failure.pace_bytes_per_s
        raise again from failure
    own, others_bytes = carried(path.interface, before, after)
    transfer = msgspec.structs.replace(
        transfer,
        interface_bytes=own.received_bytes if reverse else own.sent_bytes,
        interface_back_bytes=own.sent_bytes if reverse else own.received_bytes,
        other_interfaces_bytes=others_bytes,
        family=family.of(trip.address),
        loaded=next((series.summary(*iperf_report.data_span_s(report)) for series in beside), None),
    )
    beside_bytes = int((finished.elapsed_s + ENDS_WITHIN_S) / INTERVAL_S) * ECHO_BYTES if options.loaded_latency else 0
    invalid = iperf_report.doubts(
        report, transfer, test_s=finished.elapsed_s, asked_s=options.duration_s, beside_bytes=beside_bytes
    )
    return _Ended(transfer, invalid)


def answer(finished: Finished, path: LinkPath, server: tuple[str, int], where: str) -> Report:
    """Read what a child of CHILD said; raise MeasurementFailed where that is an error, or nothing."""
    if finished.overran:
        report = iperf_report.Report(error="deadline", deadline_reached=True)
    elif not finished.stdout:
        raise MeasurementFailed(Reason.TOOL_FAILED, f"{where}: the child ended without a word: {finished.complaint}")
    else:
        report = iperf_report.read(finished.stdout)
    if report.error is not None:
        raise why(report, path, server, where)
    return report


def _left(terms: Terms, path: LinkPath, before: dict[str, Counters]) -> int | None:
    """Tell what the plan still has for this run."""
    if terms.left_bytes is None:
        return None
    return max(0, terms.left_bytes - carried(path.interface, before, paths.counters())[0].both_bytes)


def carried(interface: str, before: dict[str, Counters], after: dict[str, Counters]) -> tuple[Counters, int]:
    """Return what `interface` carried, and the sum of all others but the loopback and those it is stacked with."""
    nothing = Counters(0, 0)
    grown = {name: now - before.get(name, nothing) for name, now in after.items()}
    same_bytes = {"lo", interface} | paths.stacked_with(interface)
    others_bytes = sum(carried.both_bytes for name, carried in grown.items() if name not in same_bytes)
    return grown.get(interface, nothing), others_bytes


def why(report: Report, path: LinkPath, server: tuple[str, int], where: str) -> MeasurementFailed:
    """Say why a transfer has no figures, having looked at the link and at the far end."""
    if report.quota_reached:
        return iperf_report.stopped_by_the_plan(report, where)
    reason, begun = iperf_report.reason(report), report.begun
    detail = f"{where}: {report.error}"
    if begun:
        detail += f", {report.counted_bytes / 1e6:.1f} MB and {report.counted_s:.1f} s after the start"
    if reason in {Reason.TOOL_MISSING, Reason.TOOL_FAILED, Reason.BUSY}:
        return MeasurementFailed(reason, detail, begun=begun)
    now = paths.look(path.interface)
    if not now.up or path.source_address not in {now.source_address, now.ipv6_address}:
        what = "gone" if not now.exists else "down" if not now.up else "on another address"
        reason = Reason.LINK_LOST if begun else Reason.LINK_DOWN
        return MeasurementFailed(reason, f"{detail}; {path.interface} is {what}", begun=begun)
    if begun and reason is not Reason.INTERRUPTED:
        if _far_end_answers(path, server):
            return MeasurementFailed(Reason.TIMEOUT, f"{detail}; the host answers, its server does not", begun=True)
        return MeasurementFailed(Reason.LINK_LOST, f"{detail}; the host does not answer any more", begun=True)
    return MeasurementFailed(reason, detail, begun=begun)


def _far_end_answers(path: LinkPath, server: tuple[str, int]) -> bool:
    """Whether the server's host takes or refuses a connection over this very link: then the link is not to blame."""
    kind = socket.AF_INET6 if family.of(server[0]) == "ipv6" else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, path.interface.encode())
            probe.connect(server)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return True
