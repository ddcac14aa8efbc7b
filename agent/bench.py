"""The workbench of one run: the link's path, its radio, a borrowed server. What was found is kept, for failures too."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from agent.lease import WAIT_AT_MOST_S, Borrowed, Wish, borrow
from agent.measurements.base import MeasurementFailed
from agent.measurements.trace import trace
from agent.name_servers import of_namespace
from agent.path import LinkPath, carried, look
from agent.resolver import resolve
from agent.witness import Witness
from wire.radio import RadioReading, Registration
from wire.reasons import Reason
from wire.results import Route, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.clock import Clock
    from agent.lease import Lender
    from agent.measurements.trace import TraceOptions
    from agent.settings import IperfServer, Link
    from wire.measured import Hop

log = logging.getLogger(__name__)

_UNREGISTERED = {Registration.DENIED, Registration.NOT_REGISTERED, Registration.SEARCHING}
_NO_USE_TO_GO_ON = {Reason.SIM_ABSENT, Reason.SIM_LOCKED, Reason.NO_REGISTRATION, Reason.QUOTA_REACHED}


class Look(NamedTuple):
    """One look at a modem: who it is, and what it says of its radio."""

    reading: RadioReading
    model: str | None = None
    iccid_sha256: str | None = None


class Modems(Protocol):
    """Whoever can look at a link's modem."""

    def look(self, link: Link) -> Look:
        """Ask the modem; raise MeasurementFailed with the reason if it does not answer as one should."""
        ...


class Bench:
    """Everything a measurement may use, and nothing else."""

    def __init__(
        self, link: Link, servers: Sequence[IperfServer], clock: Clock, modems: Modems, lender: Lender
    ) -> None:
        """Lay out the tools; nothing is asked of anything yet."""
        self.link = link
        self.plain_servers = servers
        self.seen: Look | None = None
        self.server: Server | None = None
        self.left_bytes: int | None = None
        """What the plan lets this run move over the link, from its begin; None: as much as it takes."""
        self.upload_saved = False
        """Whether the plan is too short for an upload."""
        self.quiet: Callable[[], AbstractContextManager[None]] = nullcontext
        """Keeps the agent's own uploads off the link."""
        self.offset_s: Callable[[], float] | None = None
        """The wall clock less a steady one, where the steps of the clock are watched."""
        self.plan_spent: Callable[[], bool] = lambda: False
        """Whether the data plan has nothing left now."""
        self.slot_ends_s: float | None = None
        """When the run's slot of the day's plan ends, on the agent's steady clock; None: it has none."""
        self.sim_seen: Callable[[str | None], None] = lambda _sim: None
        """Takes the hashed number of the SIM that a look has found; raises MeasurementFailed if its plan is spent."""
        self.lease_ends_s: float | None = None
        self.pace_bytes_per_s: float | None = None
        """How fast a transfer went that the plan ended before anything was measured."""
        self._begin_by_s: float | None = None
        self.tracing: TraceOptions | None = None
        """How to look for the way after a failure; None: not at all."""
        self._carried = carried(link.interface, link.namespace)
        self._clock = clock
        self._modems = modems
        self._lender = lender
        self._path: LinkPath | None = None
        self._source_address: str | None = None

    def left_now_bytes(self) -> int | None:
        """Tell what the plan lets this run still move: while it waited for a server, others may have used the link."""
        now = carried(self.link.interface)
        if self.left_bytes is None or now is None or self._carried is None:
            return self.left_bytes
        return max(0, self.left_bytes - (now - self._carried).both_bytes)

    def path(self) -> LinkPath:
        """Find the interface's present address and state; raise MeasurementFailed if it cannot carry a test."""
        resolvers = self.link.resolvers or of_namespace(self.link.namespace)
        path = msgspec.structs.replace(look(self.link.interface), resolvers=resolvers)
        self._path, self._source_address = path, path.source_address
        if not path.exists:
            raise MeasurementFailed(
                Reason.LINK_DOWN, f"there is no interface {path.interface}; is the modem plugged in?"
            )
        if not path.up:
            raise MeasurementFailed(Reason.LINK_DOWN, f"{path.interface} is down")
        if path.source_address is None and path.ipv6_address is None:
            raise MeasurementFailed(Reason.NO_ADDRESS, f"{path.interface} has no address")
        return path

    def look(self) -> Look:
        """Look at the radio; raise MeasurementFailed."""
        self.seen = self._modems.look(self.link)
        self.sim_seen(self.seen.iccid_sha256)
        return self.seen

    def look_before_test(self) -> RadioReading | None:
        """Look at the radio; None if it could not be seen but a test may still be tried.

        Raise MeasurementFailed if the modem says that there is no service to test.
        """
        if self.link.modem is None:
            return None
        try:
            reading = self.look().reading
        except MeasurementFailed as failure:
            if failure.reason in _NO_USE_TO_GO_ON:
                raise
            log.warning("%s: radio not seen: %s (%s)", self.link.name, failure.reason, failure.detail)
            return None
        if reading.registration in _UNREGISTERED:
            raise MeasurementFailed(Reason.NO_REGISTRATION, f"the modem says: {reading.registration}")
        return reading

    def look_after_test(self) -> RadioReading | None:
        """Look at the radio again; None if it could not be seen. What was seen before stays as the link's identity."""
        if self.link.modem is None:
            return None
        try:
            look = self._modems.look(self.link)
        except MeasurementFailed as failure:
            log.warning("%s: radio not seen: %s (%s)", self.link.name, failure.reason, failure.detail)
            return None
        self.seen = look
        return look.reading

    def borrow(self, *, transfers: int, length_s: float, window_s: float = WAIT_AT_MOST_S) -> Borrowed:
        """Borrow servers by lease, waiting for the turn for `window_s` at most; raise MeasurementFailed."""
        reading = self.seen.reading if self.seen is not None else RadioReading()
        wish = Wish(
            link=self.link.name,
            transfers=transfers,
            length_s=length_s,
            window_s=window_s,
            expected_mbps=self._lender.habits.mbps.get(self.link.name),
            operator=_plmn(reading) or reading.operator,
            cell=str(reading.cell_id) if reading.cell_id is not None else None,
        )
        borrowed = borrow(self._lender, self._clock, wish, path=self._path)
        self.server = borrowed.plain()
        self.lease_ends_s, self._begin_by_s = borrowed.ends_s, borrowed.begin_by_s
        return borrowed

    def last_mbps(self) -> float | None:
        """Tell how fast the link was at its last test; None if there was none yet."""
        return self._lender.habits.mbps.get(self.link.name)

    def witness(self) -> Witness:
        """Make who watches a test while it runs; to be entered around it."""
        return Witness(self.link, modems=self._modems, offset_s=self.offset_s, quiet=self.quiet)

    def slot_left_s(self) -> float | None:
        """Tell how long the run's slot of the day's plan still lasts; None: it has none."""
        return max(self.slot_ends_s - self._clock.monotonic_s(), 0.0) if self.slot_ends_s is not None else None

    def begin_within_s(self) -> float | None:
        """Tell how soon the first transfer to a borrowed server must start; None: nobody waits for it."""
        return max(self._begin_by_s - self._clock.monotonic_s(), 0.0) if self._begin_by_s is not None else None

    def past_lease_s(self) -> float | None:
        """Tell how long ago the lease ended; negative: it has not; None: there is none."""
        return self._clock.monotonic_s() - self.lease_ends_s if self.lease_ends_s is not None else None

    def trace(self) -> tuple[Hop, ...]:
        """Look for the way to the run's server, if the settings ask for it and the link is there."""
        host = self.server.host if self.server is not None else None
        if host is None and self.plain_servers:
            host = self.plain_servers[0].host
        if self.tracing is None or host is None:
            return ()
        try:
            path = self.path()
            return trace(path, resolve(path, host), self.tracing)
        except MeasurementFailed as failure:
            log.info("%s: no trace: %s", self.link.name, failure)
            return ()

    def note_family(self, path: LinkPath, family: str | None) -> None:
        """Remember which of the link's addresses carried the run."""
        if family == "ipv6":
            self._source_address = path.ipv6_address

    def note_speed(self, mbps: float) -> None:
        """Remember how fast the link was: what the next test asks of the responder's link."""
        if mbps > 0:
            self._lender.habits.mbps[self.link.name] = mbps

    def used(self) -> Route:
        """Name the path that carried the run, as far as it got."""
        reading = self.seen.reading if self.seen is not None else RadioReading()
        return Route(
            interface=self.link.interface,
            source_address=self._source_address,
            operator=reading.operator or _plmn(reading),
            iccid_sha256=self.seen.iccid_sha256 if self.seen is not None else None,
            modem=self.seen.model if self.seen is not None else None,
            server=self.server,
        )


def _plmn(reading: RadioReading) -> str | None:
    return f"{reading.mcc}-{reading.mnc}" if reading.mcc and reading.mnc else None
