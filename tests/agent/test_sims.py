"""SIMs that are moved among links: their books go with them, wherever they were and whoever was looked at."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent import path
from agent.budget import Budget
from agent.meter import Meter
from agent.plan import Claim
from agent.settings import Link, Plan, ProbeBroker, Settings, Site, ThroughputJob
from agent.spool import Spool
from base.durable import StorageError
from wire.results import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1_000_000
PLAN = Plan(quota_month_mb=1000, overhead_percent=0, telemetry_percent=0, by_hand_percent=10)
INTERFACES = ("wwan0", "wwan1")
SIMS = ("s1", "s2", "s3")


class Noon:
    """A clock that stands."""

    def now(self) -> datetime:
        return datetime(2026, 11, 3, 5, 0, tzinfo=UTC)

    def monotonic_s(self) -> float:
        return 1000.0

    def quality(self) -> Clock:
        return Clock(synchronised=True)


class Stick(NamedTuple):
    """A modem's interface, and the SIM in it."""

    index: int
    carried: int = 0
    sim: str | None = None


class Probe:
    """A probe of two modems, and the true story of the SIMs in them."""

    def __init__(self, folder: Path) -> None:
        self.boot, self.indexes, self.uptime_s = 1, len(INTERFACES), 100.0
        self.sticks = {name: Stick(index) for index, name in enumerate(INTERFACES, 1)}
        self.settings = Settings(
            probe_id="p1",
            site=Site(id="s1"),
            broker=ProbeBroker(host="b"),
            links=tuple(Link(name=f"of-{name}", interface=name, plan=PLAN) for name in INTERFACES),
            jobs=(ThroughputJob(name="light", runs_per_day=8),),
            data_dir=folder,
        )
        self.start()

    def start(self) -> None:
        """Begin like an agent that was just started."""
        self.spool = Spool(self.settings.data_dir / "spool.db", max_bytes=10**9)
        self.budget = Budget(self.settings, self.spool, Noon())
        self.budget.tick()

    def kill(self) -> None:
        self.spool._db.close()
        self.start()

    def meter(self, interface: str, _namespace: str | None) -> Meter:
        stick = self.sticks[interface]
        self.uptime_s += 1
        return Meter(
            boot_id=str(self.boot),
            interface_index=stick.index,
            uptime_s=self.uptime_s,
            received_bytes=stick.carried,
            sent_bytes=0,
        )

    def link(self, interface: str) -> Link:
        return next(link for link in self.settings.links if link.interface == interface)

    def put(self, sim: str | None, interface: str) -> None:
        """Put a SIM into a slot; what was there goes to the drawer, where it was is empty."""
        for name, stick in self.sticks.items():
            if sim is not None and stick.sim == sim:
                self.sticks[name] = stick._replace(sim=None)
        self.sticks[interface] = self.sticks[interface]._replace(sim=sim)

    def carry(self, interface: str, megabytes: float) -> None:
        stick = self.sticks[interface]
        self.sticks[interface] = stick._replace(carried=stick.carried + int(megabytes * MB))

    def plug_anew(self, interface: str) -> None:
        self.indexes += 1
        self.sticks[interface] = self.sticks[interface]._replace(index=self.indexes, carried=0)

    def stop(self) -> None:
        self.budget.close()
        self.spool.close()

    def turn_off(self) -> None:
        self.stop()
        self.boot += 1
        for name in INTERFACES:
            self.sticks[name] = self.sticks[name]._replace(carried=0)

    def rename(self, interface: str, name: str) -> None:
        """Edit agent.yaml while the agent is stopped."""
        links = (
            msgspec.structs.replace(link, name=name) if link.interface == interface else link
            for link in self.settings.links
        )
        self.settings = msgspec.structs.replace(self.settings, links=tuple(links))

    def look(self, interface: str) -> bool:
        """Look at a modem as a run does: the counters first."""
        self.budget.tick()
        return self.budget.sim_seen(self.link(interface), self.sticks[interface].sim)

    def spent_mb(self, interface: str) -> float:
        return self.budget.spent(self.link(interface)).month_bytes / MB

    def books(self) -> dict[str, int]:
        """Read all books there are, booked or not, by the links and the SIMs that have them."""
        rows = self.spool._db.execute("SELECT link, SUM(bytes) FROM spent GROUP BY link").fetchall()
        booked = dict(rows) | {link.name: self.budget.spent(link).month_bytes for link in self.settings.links}
        whose = {link: f"sim/{sim}" for link, sim in self.spool._db.execute("SELECT link, sim FROM sims").fetchall()}
        found: Counter[str] = Counter()
        for name, count in booked.items():
            found[whose.get(name, name)] += count
        return found


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    made: list[Probe] = []
    monkeypatch.setattr(path, "meter", lambda *where: made[0].meter(*where) if made else None)
    made.append(Probe(tmp_path))
    yield made[0]
    made[0].spool.close()


A, B = INTERFACES


def test_a_sim_that_moves_to_another_link_takes_its_books_along_though_its_old_slot_was_not_looked_at(
    probe: Probe,
) -> None:
    for interface, sim in ((A, "s1"), (B, "s2")):
        probe.put(sim, interface)
        assert not probe.look(interface)
    probe.carry(A, 20)
    probe.carry(B, 700)
    probe.budget.tick()
    probe.carry(B, 50)
    probe.budget.observe(probe.link(B))  # not booked yet
    probe.put("s2", A)
    assert probe.budget.sim_seen(probe.link(A), "s2")
    room = probe.budget.room(probe.link(A), Claim.SCHEDULE)
    assert room is not None
    assert room.left_bytes == 150 * MB
    probe.carry(B, 3)  # whatever is there now
    probe.kill()
    assert not probe.look(B)
    assert (probe.spent_mb(A), probe.spent_mb(B)) == (750, 3), "its counters go on counting, for the next one"
    probe.put("s1", B)
    assert probe.look(B), "what was laid aside is its own again: the run has to ask anew"
    probe.put("s2", B)
    probe.carry(A, 1)
    assert probe.look(B)
    assert (probe.spent_mb(A), probe.spent_mb(B)) == (0, 751)
    assert probe.books()["sim/s1"] == 23 * MB
    for interface in (A, B, A):
        probe.put("s2", interface)
        assert probe.look(interface)
        assert probe.spent_mb(interface) == 751


def test_two_links_that_exchange_their_sims_find_their_books_whichever_is_looked_at_first(probe: Probe) -> None:
    for interface, sim, count in ((A, "s1", 10), (B, "s2", 870)):
        probe.put(sim, interface)
        probe.look(interface)
        probe.carry(interface, count)
    probe.budget.tick()
    probe.put("s2", A)
    probe.put("s1", B)
    assert probe.look(A)
    assert probe.spent_mb(A) == 870
    assert probe.look(B)
    assert (probe.spent_mb(A), probe.spent_mb(B)) == (870, 10)
    probe.kill()
    assert not probe.look(A)
    assert not probe.look(B)


@pytest.mark.parametrize("sim", ["s1", None])
def test_a_link_that_is_renamed_keeps_its_books(probe: Probe, sim: str | None) -> None:
    probe.put(sim, A)
    for name, count in (("viettel", 600), ("viettel-2", 5), ("of-wwan0", 1)):
        probe.look(A)
        probe.carry(A, count)
        probe.stop()
        probe.rename(A, name)
        probe.start()
    assert probe.spent_mb(A) == 606
    assert not probe.look(A)
    probe.put("s2", A)
    assert probe.look(A) is (sim is not None), "the first one that is known has the books of one that never was"
    assert probe.spent_mb(A) == (0 if sim is not None else 606)


def test_a_link_that_is_renamed_while_the_power_is_off_has_its_sims_books_from_the_first_look_on(probe: Probe) -> None:
    probe.put("s1", A)
    probe.look(A)
    probe.carry(A, 600)
    probe.turn_off()
    probe.rename(A, "viettel")
    probe.start()
    assert probe.look(A)
    assert probe.spent_mb(A) == 600


def test_a_file_in_which_two_links_have_one_sim_is_put_right_at_the_next_start(probe: Probe) -> None:
    for interface, sim in ((A, "s1"), (B, "s2")):
        probe.put(sim, interface)
        probe.look(interface)
        probe.carry(interface, 100)
    probe.budget.tick()
    probe.spool._db.execute("UPDATE sims SET sim='s2'")  # as agents wrote it before the books moved at once
    probe.kill()
    probe.sticks[A] = probe.sticks[A]._replace(sim="s2")
    assert probe.look(A)
    assert probe.spent_mb(A) == 200


class Moves(RuleBasedStateMachine):
    """Whoever is looked at or not, killed or renamed: no byte is lost or booked twice, and each SIM has its own.

    A SIM's own are the bytes carried after its link was looked at; those before that look may be the last one's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(path, "meter", lambda *where: self.probe.meter(*where) if hasattr(self, "probe") else None)
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.probe = Probe(Path(self.folder.name))
        self.seen: set[str] = set()
        self.own: Counter[str] = Counter()
        self.total = self.names = 0

    @rule(interface=st.sampled_from(INTERFACES), sim=st.sampled_from((None, *SIMS)), seen=st.booleans())
    def put(self, interface: str, sim: str | None, *, seen: bool) -> None:
        self.probe.budget.tick()  # at most a minute ago
        self.seen -= {name for name, stick in self.probe.sticks.items() if stick.sim == sim} | {interface}
        self.probe.put(sim, interface)
        if seen:
            self.look(interface)

    @rule(interface=st.sampled_from(INTERFACES), megabytes=st.just(0.25) | st.integers(1, 900))
    def carry(self, interface: str, megabytes: float) -> None:
        sim = self.probe.sticks[interface].sim
        if sim is None:
            return
        self.probe.carry(interface, megabytes)
        self.total += int(megabytes * MB)
        if interface in self.seen:
            self.own[sim] += int(megabytes * MB)

    @rule(interface=st.sampled_from(INTERFACES))
    def look(self, interface: str) -> None:
        before = self.probe.spent_mb(interface)
        changed = self.probe.look(interface)
        if self.probe.sticks[interface].sim is not None:
            self.seen.add(interface)
        assert changed or self.probe.spent_mb(interface) >= before

    @rule(interface=st.sampled_from(INTERFACES))
    def look_while_the_card_takes_nothing(self, interface: str) -> None:
        self.probe.budget.tick()
        self.probe.spool._db.execute("PRAGMA query_only=1")
        try:
            changed = self.probe.look(interface)
        except StorageError:
            changed = False
        self.probe.spool._db.execute("PRAGMA query_only=0")
        assert not changed

    @rule(
        befalls=st.sampled_from(("killed", "restarted", "rebooted", "plugged anew", "renamed", "renamed while off")),
        interface=st.sampled_from(INTERFACES),
    )
    def befall(self, befalls: str, interface: str) -> None:
        """Let something befall the probe; in order, since a power cut may take less than a MB along."""
        if befalls == "killed":
            self.probe.kill()
            return
        off = befalls in {"rebooted", "renamed while off"}
        self.probe.turn_off() if off else self.probe.stop()
        if befalls == "plugged anew":
            self.probe.plug_anew(interface)
        if befalls.startswith("renamed"):
            self.names += 1
            self.probe.rename(interface, f"name-{self.names}")
            self.seen -= {interface} if off else set()
        self.probe.start()

    @invariant()
    def each_has_its_own_and_all_have_all(self) -> None:
        for link in self.probe.settings.links:
            self.probe.budget.observe(link)
        books = self.probe.books()
        assert sum(books.values()) == self.total
        for sim, own in self.own.items():
            assert books[f"sim/{sim}"] >= own

    def teardown(self) -> None:
        self.probe.spool.close()
        self.patch.undo()
        self.folder.cleanup()


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
