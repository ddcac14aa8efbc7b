"""Copied cards, old images and damage, in any order: each result that was made ends in the journal and the sink once.

The agent's spool and the collector's intake and journal are the real ones; the broker is a bag from which messages and
acknowledgements are taken in any order, twice or never.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from agent.settings import ClockSettings
from agent.spool import Spool
from agent.time_repair import Timekeeper
from agent.timesync import Boot
from base import carve
from collector import points
from collector.acks import Acks
from collector.intake import Intake
from collector.journal import Batch, Journal
from collector.mqtt import Arrival
from wire import topics
from wire.codec import check, decode_result, pack
from wire.delivery import CONFLICT, Ack
from wire.measured import Failed, Throughput, Transfer
from wire.reasons import Reason
from wire.results import Clock, Job, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

PROBE: Final = "p1"
START: Final = datetime(2026, 6, 15, 8, 0, tzinfo=UTC)
_MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
_PAGE: Final = 4096
_SETTLED_IN: Final = 60


def made(token: int) -> Result:
    """Make a result that is told from others by its `elapsed_s` alone, apart from when it began."""
    return Result(
        probe_id=PROBE,
        site="s1",
        link="viettel",
        job=Job(name="light", measurement="throughput"),
        started_at=START + timedelta(seconds=token),
        elapsed_s=float(token),
        agent_version="0.1.0",
        outcome=Failed(reason=Reason.BUSY),
    )


def token_of(payload: bytes) -> int:
    """Tell which result it is; 0 for what a spool says of itself."""
    result = decode_result(payload)
    return int(result.elapsed_s)


class Pi:
    """A computer with a card in it: the spool's file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "spool.db"
        self.spool = Spool(self.path, max_bytes=10**9)

    def copy(self, image: Path) -> None:
        """Copy the card as it is now, with the log as it is."""
        image.mkdir(exist_ok=True)
        for suffix in ("", "-wal"):
            file = self.path.with_name(self.path.name + suffix)
            (image / file.name).write_bytes(file.read_bytes() if file.exists() else b"")

    def restart_on(self, image: Path) -> None:
        """Lose the power, and start again with a card that holds this."""
        self.spool.close()
        for file in self.path.parent.iterdir():
            file.unlink()
        for file in image.iterdir():
            if file.stat().st_size:
                shutil.copy(file, self.path.parent / file.name)
        self.spool = Spool(self.path, max_bytes=10**9)

    def waiting(self) -> Counter[int]:
        """Count the results that wait here."""
        return Counter(token_of(row.payload) for row in self.spool.oldest(10_000))

    def hear(self, ack: Ack) -> None:
        """Do what the publisher does with an acknowledgement."""
        assert all(one.reason.startswith(CONFLICT) for one in ack.refused)
        self.spool.refuse(ack.spool_id, ack.refused)
        self.spool.acknowledge(ack.spool_id, ack.stored, ack.checks)


class Server:
    """A collector: intake and journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path, fsync=False)

    def restart(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path, fsync=False)

    def take(self, payloads: Sequence[bytes]) -> list[Ack]:
        """Store one message of results; return what is said of them."""
        intake = Intake()
        message = pack(payloads)
        intake.take(Arrival(topics.topic(PROBE, topics.RESULT), message, len(message)))
        assert len(intake.results) == len(payloads)
        said = Acks()
        said.note(intake, self.journal.append(Batch(received_us=1, results=intake.results)))
        return [ack for _, ack in said.take()]

    def payloads(self) -> list[bytes]:
        return [row.payload for row in self.journal.read(0, 100_000)]

    def tokens(self) -> Counter[int]:
        return Counter(map(token_of, self.payloads()))


def damage(image: Path, seed: int, tables: Sequence[str]) -> None:
    """Destroy the root pages of these tables ("" is the schema's own) in the file and in its log, or bits anywhere."""
    chance = random.Random(seed)
    file, log = image / "spool.db", image / "spool.db-wal"
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        for one in (file, log):
            shutil.copy(one, folder)
        with closing(sqlite3.connect(Path(folder) / "spool.db")) as db:
            roots = dict(db.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
    pages = {roots.get(name, 1) for name in tables}
    content, frames = bytearray(file.read_bytes()), bytearray(log.read_bytes())
    for page in pages:
        at = (page - 1) * _PAGE
        content[at : at + _PAGE] = chance.randbytes(len(content[at : at + _PAGE]))
    for at in range(32, len(frames), 24 + _PAGE):
        if int.from_bytes(frames[at : at + 4], "big") in pages:
            frames[at + 24 : at + 24 + _PAGE] = chance.randbytes(_PAGE)
    for data in (content, frames) if not tables else ():
        for _ in range(chance.randint(1, 5) if data else 0):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
    log.write_bytes(frames)


def carved(image: Path) -> set[int]:
    """Which results can be read on a card, whatever its tables say."""
    rows = carve.rows((image / "spool.db").read_bytes(), (image / "spool.db-wal").read_bytes())
    pairs = (pair for row in rows for pair in pairwise(row.columns))
    return {token_of(one) for one, beside in pairs if isinstance(one, bytes) and beside == check(one)}


class Fleet(RuleBasedStateMachine):
    """Probes that are one probe, and one collector or two. `excused`: was nowhere but on a card that is gone."""

    servers_at_most = 1

    def __init__(self) -> None:
        super().__init__()
        self.names = random.Random(0)
        self.patched = patch("agent.lives.secrets.token_hex", lambda size: self.names.randbytes(size).hex())
        self.patched.start()
        self.folder = tempfile.TemporaryDirectory(dir=_MEMORY)
        self.root = Path(self.folder.name)
        self.servers = [Server(self.root / f"journal-{n}.db") for n in range(self.servers_at_most)]
        self.pis = [Pi(self.root / "pi-0")]
        self.images: list[Path] = []
        self.messages: list[list[bytes]] = []
        self.answers: list[Ack] = []
        self.token = 0
        self.excused: set[int] = set()

    def known(self) -> set[int]:
        return {token for server in self.servers for token in server.tokens()}

    pi = st.integers(0, 2)

    def chosen(self, pi: int) -> Pi:
        return self.pis[pi % len(self.pis)]

    @initialize(count=st.integers(1, 4), seed=st.integers(1, 1000))
    def begin(self, count: int, seed: int) -> None:
        self.names.seed(seed)
        for _ in range(count):
            self.make(0)

    @rule(pi=pi)
    def make(self, pi: int) -> None:
        self.token += 1
        self.chosen(pi).spool.append(made(self.token))

    @rule(pi=pi, first=st.integers(0, 3), count=st.integers(1, 5))
    def send(self, pi: int, first: int, count: int) -> None:
        waiting = [row.payload for row in self.chosen(pi).spool.oldest(100)]
        if batch := waiting[first : first + count]:
            self.messages.append(batch)

    @precondition(lambda self: self.messages)
    @rule(place=st.integers(0, 50), server=st.integers(0, 3), once=st.booleans())
    def deliver(self, place: int, server: int, once: bool) -> None:  # noqa: FBT001  # hypothesis passes by name
        place %= len(self.messages)
        batch = self.messages[place]
        if once:
            del self.messages[place]
        self.answers += self.servers[server % len(self.servers)].take(batch)

    @precondition(lambda self: self.answers)
    @rule(pi=pi, place=st.integers(0, 50), once=st.booleans())
    def hear(self, pi: int, place: int, once: bool) -> None:  # noqa: FBT001  # as above
        place %= len(self.answers)
        answer = self.answers[place]
        if once:
            del self.answers[place]
        self.hears(self.chosen(pi), answer)

    def hears(self, pi: Pi, answer: Ack) -> None:
        before = pi.waiting()
        pi.hear(answer)
        assert set(before) - set(pi.waiting()) <= self.known() | {0}, "let go, and nobody has it"

    @rule(pi=pi, server=st.integers(0, 3), heard=st.booleans())
    def exchange(self, pi: int, server: int, heard: bool) -> None:  # noqa: FBT001  # as above
        """Send all that waits, and hear of it or not."""
        if batch := [row.payload for row in self.chosen(pi).spool.oldest(100)]:
            answers = self.servers[server % len(self.servers)].take(batch)
            for answer in answers if heard else ():
                self.hears(self.chosen(pi), answer)

    @rule(pi=pi)
    def take_image(self, pi: int) -> None:
        image = self.root / f"image-{len(self.images)}"
        self.chosen(pi).copy(image)
        self.images.append(image)

    @precondition(lambda self: self.images)
    @rule(pi=pi, image=st.integers(0, 10))
    def put_back(self, pi: int, image: int) -> None:
        chosen = self.chosen(pi)
        self.excused |= set(chosen.waiting()) - self.known()
        chosen.restart_on(self.images[image % len(self.images)])

    @rule(pi=pi, server=st.integers(0, 3))
    def give_a_new_number(self, pi: int, server: int) -> None:
        """Bring it about at once that a result is refused and gets another number: it takes long by chance."""
        self.take_image(pi)
        self.make(pi)
        self.exchange(pi, server, heard=True)
        self.put_back(pi, len(self.images) - 1)
        self.make(pi)
        self.exchange(pi, server, heard=True)

    @precondition(lambda self: self.images and len(self.pis) < 3)
    @rule(image=st.integers(0, 10))
    def clone(self, image: int) -> None:
        self.pis.append(Pi(self.root / f"pi-{len(self.pis)}"))
        self.pis[-1].restart_on(self.images[image % len(self.images)])

    @rule(pi=pi)
    def lose_power(self, pi: int) -> None:
        chosen = self.chosen(pi)
        chosen.copy(self.root / "now")
        chosen.restart_on(self.root / "now")

    @rule(
        pi=pi,
        seed=st.integers(0, 1000),
        tables=st.one_of(
            st.just([""]),
            st.lists(st.sampled_from(["", "lives", "meta", "results", "results_by_rank"]), unique=True),
        ),
    )
    def damage(self, pi: int, seed: int, tables: list[str]) -> None:
        chosen = self.chosen(pi)
        before = set(chosen.waiting()) - self.known()
        chosen.copy(self.root / "now")
        damage(self.root / "now", seed, tables)
        readable = carved(self.root / "now")
        chosen.restart_on(self.root / "now")
        lost = before - set(chosen.waiting())
        if list(chosen.path.parent.glob("*.damaged-*")):  # else it looks like a power cut
            assert not (lost & readable) - {0}, "what can be read must be saved"
        self.excused |= lost

    @rule(server=st.integers(0, 3))
    def restart_collector(self, server: int) -> None:
        self.servers[server % len(self.servers)].restart()

    def settle(self) -> None:
        """Let everybody send until nobody has anything, and everybody hear everything."""
        for turn in range(_SETTLED_IN):
            if not any(pi.waiting() for pi in self.pis):
                return
            for number, pi in enumerate(self.pis):
                if rows := pi.spool.oldest(10_000):
                    server = self.servers[(turn + number) % len(self.servers)]
                    for answer in server.take([row.payload for row in rows]):
                        for other in self.pis:
                            self.hears(other, answer)
        pytest.fail("something waits for ever")

    def teardown(self) -> None:
        try:
            self.settle()
            for server in self.servers:
                held = server.tokens()
                assert {token for token, count in held.items() if count > 1} - {0} == set(), "stored twice"
            found = Counter(
                {
                    line_key(payload): token_of(payload) for server in self.servers for payload in server.payloads()
                }.values()
            )
            assert {token for token, count in found.items() if count > 1} - {0} == set(), "two points"
            assert set(range(1, self.token + 1)) - set(found) <= self.excused, "lost"
        finally:
            for pi in self.pis:
                pi.spool.close()
            for server in self.servers:
                server.journal.close()
            self.folder.cleanup()
            self.patched.stop()


def line_key(payload: bytes) -> tuple[str, str]:
    """Return what makes a point another one in InfluxDB: series and time."""
    line = points.line(decode_result(payload))
    return line.split(" ", 1)[0], line.rsplit(" ", 1)[1]


@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("tables", [[""], ["", "meta"], ["", "lives", "meta"], ["results_by_rank", "meta"]], ids=str)
def test_an_old_card_that_is_damaged_afterwards_counts_nothing_twice(tables: list[str], *, acknowledged: bool) -> None:
    fleet = Fleet()
    fleet.begin(count=1, seed=1)
    fleet.give_a_new_number(0, 0)
    if acknowledged:
        fleet.exchange(0, 0, heard=True)
    fleet.damage(0, 1, tables)
    fleet.teardown()


@pytest.mark.parametrize("since", ["before any number was given anew", "since then"])
def test_two_with_copies_of_one_card_deliver_everything_of_both(since: str) -> None:
    fleet = Fleet()
    fleet.begin(count=3, seed=1)
    if since == "since then":
        fleet.give_a_new_number(0, 0)
    fleet.take_image(0)
    fleet.clone(len(fleet.images) - 1)
    for _ in range(5):  # both offline: a backlog on each side
        fleet.make(0)
        fleet.make(1)
    for turn in range(4):  # each breaks the other's connection: what is said to one is heard by the other
        fleet.send(turn % 2, 0, 5)
        fleet.deliver(0, 0, once=True)
        fleet.hear(1 - turn % 2, 0, once=False)
        fleet.make(turn % 2)
    names = [pi.spool.spool_id for pi in fleet.pis]
    fleet.settle()
    assert names != [pi.spool.spool_id for pi in fleet.pis], "one of them has a new spool"
    assert len({pi.spool.spool_id for pi in fleet.pis}) == 2
    fleet.teardown()


class Hands(NamedTuple):
    """A clock that is right, or was never set."""

    right: bool

    def now(self) -> datetime:
        return START + timedelta(days=1 if self.right else -400, microseconds=123_457)

    def monotonic_s(self) -> float:
        return 900.0

    def quality(self) -> Clock:
        return Clock(synchronised=self.right, source="chrony")


@pytest.mark.parametrize("dated_first", [True, False])
@pytest.mark.parametrize("outcome", [None, Throughput(download=Transfer(steady_mbps=40, payload_bytes=1, elapsed_s=1))])
def test_what_waited_for_the_clock_on_a_card_and_on_its_copy_is_one_result(
    outcome: Throughput | None, *, dated_first: bool
) -> None:
    fleet = Fleet()
    fleet.begin(count=1, seed=1)
    one = msgspec.structs.replace(made(2), outcome=outcome or made(2).outcome, started_at=START - timedelta(days=400))
    fleet.pis[0].spool.append(one, began=Boot("first boot", 70.000_001))
    fleet.take_image(0)
    fleet.clone(0)
    for pi, (boot_id, right) in zip(fleet.pis, (("first boot", True), ("another", False)), strict=True):
        keeper = Timekeeper(
            Hands(right),
            pi.spool,
            ClockSettings(),
            boot=lambda boot_id=boot_id: Boot(boot_id, 900.0),
            without_time=True,
            not_before_s=0,
        )
        assert keeper.check() == 1
    sent = [decode_result(pi.spool.oldest(10)[-1].payload) for pi in fleet.pis]
    assert [one.clock.correction_s is not None for one in sent] == [True, False]
    for pi in (0, 1) if dated_first else (1, 0):
        fleet.exchange(pi, 0, heard=True)
        assert not fleet.pis[pi].waiting(), "nothing is refused"
    (stored,) = [one for one in map(decode_result, fleet.servers[0].payloads()) if one.elapsed_s == 2]
    assert stored == sent[0 if dated_first else 1], "what comes first stands"
    fleet.teardown()


class Shared(Fleet):
    """The same with two collectors that share the messages and have a journal each."""

    servers_at_most = 2


CHECKED = settings(
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestFleet = Fleet.TestCase
TestFleet.settings = CHECKED
TestShared = Shared.TestCase
TestShared.settings = CHECKED
