"""The faults, one function each; `FAULTS` is the table. Each strikes while the probes make results, and mends itself.

A fault may return a question that is asked once all is settled: its answers are complaints, as that nobody noticed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from collector.writer import LATE_S
from lab.torture import damage, filler, judge, known
from lab.torture.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.programs import Program
    from lab.servers import Server
    from lab.torture.stand import Stand, Writer

    Question = Callable[[], list[str]]
    Fault = Callable[["Case"], Question | None]

_PATIENCE_S: Final = 20.0
_POLL_S: Final = 0.05
_LATE_S: Final = 1.0
"""How late the flush of what is deferred may be on a busy machine."""


class Case:
    """One round: the stand, which results earlier faults have cost, and which this one may cost."""

    def __init__(self, stand: Stand, excused_before: set[int]) -> None:
        self.stand = stand
        self.chance = stand.chance
        self.excused_before = frozenset(excused_before)
        self.excused: set[int] = set()

    def wait(self, shortest_s: float = 0.1, longest_s: float = 0.8) -> None:
        """Let some random time go by."""
        time.sleep(self.chance.uniform(shortest_s, longest_s))

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true, but not for ever: what follows will tell."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while not true() and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)

    def someone(self) -> Writer:
        """Choose a probe."""
        return self.chance.choice(self.stand.writers)


def agent_killed(case: Case) -> None:
    """Kill -9 of agents, several times."""
    for _ in range(3):
        writer = case.someone()
        writer.program.kill()
        case.wait(0.0, 0.3)
        writer.program.start()
        case.wait(0.3, 0.9)


def collector_killed(case: Case) -> None:
    """Kill -9 of the collector, twice."""
    for _ in range(2):
        case.stand.collector.kill()
        case.wait(0.0, 0.4)
        case.stand.collector.start()
        case.wait(0.5, 1.2)


def broker_killed(case: Case) -> None:
    """Kill -9 of mosquitto; it comes back with what it last saved."""
    case.stand.broker.kill()
    case.wait()
    case.stand.broker.start()


def broker_forgets(case: Case) -> None:
    """Kill -9 of mosquitto; it comes back and knows nothing: what it had acknowledged is gone."""
    case.stand.collector.kill()
    case.wait(0.3, 0.8)
    case.stand.broker.kill()
    case.stand.forget()
    case.stand.broker.start()
    case.stand.collector.start()


def broker_drops(case: Case) -> None:
    """Keep the collector away for longer than mosquitto's queue, which acknowledges and then drops."""
    case.stand.collector.kill()
    case.wait(2.5, 3.5)
    case.stand.collector.start()


def influx_killed(case: Case) -> None:
    """Kill -9 of InfluxDB."""
    case.stand.influx.kill()
    case.wait()
    case.stand.influx.start()


def influx_away(case: Case) -> None:
    """Keep InfluxDB away until the newest results go first, and kill the collector while it makes up for it."""
    case.stand.influx.kill()
    case.wait(LATE_S + 1, LATE_S + 2)
    case.stand.influx.start()
    case.wait(0.0, 1.0)
    case.stand.collector.kill()
    case.stand.collector.start()


def several_killed(case: Case) -> None:
    """Kill -9 of several at once; they come back in any order."""
    stand = case.stand
    everyone: list[Server | Program] = [
        stand.collector,
        stand.broker,
        stand.influx,
        *(writer.program for writer in stand.writers),
    ]
    victims = case.chance.sample(everyone, case.chance.randint(2, len(everyone)))
    for victim in victims:
        victim.kill()
    if stand.broker in victims and case.chance.random() < 0.5:  # noqa: PLR2004  # as often as not
        stand.forget()
    case.chance.shuffle(victims)
    for victim in victims:
        case.wait(0.0, 0.3)
        victim.start()


def probe_loses_power(case: Case) -> None:
    """Power cuts at a probe: what was not fsynced is gone, torn or reordered."""
    for _ in range(2):
        writer = case.someone()
        cut_at_s = time.monotonic()
        case.stand.cut_power_at(writer)
        deferred = judge.truth(writer).deferred.items()
        case.excused |= {token for token, at_s in deferred if cut_at_s - filler.DEFER_S - _LATE_S < at_s}
        case.wait(0.3, 0.9)


def server_loses_power(case: Case) -> None:
    """Cut the server's power: the journal's disk loses what was not fsynced, the broker all, InfluxDB is killed."""
    case.stand.cut_power_at_the_server()


def spool_disk_full(case: Case) -> Question:
    """Fill the disk under a spool, for a while; kill the agent meanwhile, as often as not."""
    return _bad_disk(case, case.someone(), "full", "free some space")


def spool_disk_read_only(case: Case) -> Question:
    """Turn the disk under a spool read-only, as a worn card does."""
    return _bad_disk(case, case.someone(), "read_only", "make it writable", "turned read-only")


def journal_disk_full(case: Case) -> Question:
    """Fill the disk under the journal."""
    return _bad_disk(case, None, "full", "free some space")


def journal_disk_read_only(case: Case) -> Question:
    """Turn the disk under the journal read-only."""
    return _bad_disk(case, None, "read_only", "make it writable", "turned read-only")


def spool_damaged(case: Case) -> Question:
    """Bytes of a spool and its log are changed, cut off or wiped while the probe is off; nothing else is lost."""
    stand, writer = case.stand, case.someone()
    stand.broker.kill()
    case.wait(0.8, 1.5)
    writer.program.kill()
    held = judge.journal(stand.journal_file)
    told_before = held.damage_told[writer.probe_id]
    at_risk = {token for token in judge.truth(writer).made if held.tokens[token] == 0} - case.excused_before
    last = judge.last_commits(writer)  # which may be taken for ones that the power cut off
    untouched = damage.strike(writer.data, case.chance)
    writer.disk.adopt()
    case.excused |= at_risk
    begun = judge.next_token(writer)
    stand.broker.start()
    writer.program.start()
    case.until(lambda: judge.next_token(writer) > begun + 1)  # the report travels with the first result

    def saved() -> list[str]:
        now = judge.journal(stand.journal_file)
        told = now.damage_told[writer.probe_id] > told_before
        return [f"{writer.name}: {one}" for one in damage.complaints(at_risk - last, untouched, now.tokens, told=told)]

    return saved


def messages_repeated(case: Case) -> Question:
    """Results, acks and statuses come again, late and in another order; no old status replaces a newer one."""
    with known.Watch(case.stand) as watch:
        with Relay(case.stand.broker.port, case.chance):
            case.wait(4.5, 5.5)  # several statuses of each probe
        case.wait(0.5, 0.8)  # what the relay said last is known
    return lambda: list(watch.went_back.values())


def old_card(case: Case) -> Question:
    """Put a probe's card back from an image: its spool's numbers are used again for other results."""
    stand, writer = case.stand, case.someone()
    writer.program.stop()
    image = writer.folder / "image"
    stand.copy_card(writer, image)
    before = judge.truth(writer).begun
    writer.program.start()
    case.wait(1.5, 2.0)
    writer.program.kill()
    held = judge.journal(stand.journal_file)
    known = judge.truth(writer)
    numbers_clash = any(held.tokens[token] for token in known.made - before)
    case.excused |= {token for token in known.made - before if held.tokens[token] == 0}  # on the card that is gone
    stand.put_card_back(writer, image)
    old_id = writer.spool_id()
    begun = judge.next_token(writer)
    writer.program.start()
    case.until(lambda: judge.next_token(writer) > begun + 1)

    def noticed() -> list[str]:
        if numbers_clash and writer.spool_id() == old_id:
            return [f"{writer.name}: nobody noticed the old card"]
        return []

    return noticed


def two_with_one_id(case: Case) -> Question:
    """Start a second probe with the id of a first one: set up twice, or with a copy of its card."""
    stand, writer = case.stand, case.someone()
    twin = stand.twin(writer)
    if case.chance.random() < 0.5:  # noqa: PLR2004  # as often as not
        writer.program.stop()
        stand.copy_card(writer, twin.data)
        twin.disk.adopt()
        writer.program.start()
    twin.program.start()
    case.wait(6.0, 8.0)

    def named() -> list[str]:
        stand.retire(twin)
        return _unnamed(stand, writer)

    return named


def _unnamed(stand: Stand, writer: Writer) -> list[str]:
    """Ask the collector who shares an id."""
    command = [sys.executable, "-m", "collector.cli", "clashes", "--config", str(stand.collector_config), "--json"]
    shared = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["shared_ids"]
    named = [one for one in shared if one["probe_id"] == writer.probe_id]
    return [] if len(named) > 1 else [f"nobody noticed that two probes are {writer.probe_id}"]


def _bad_disk(case: Case, writer: Writer | None, how: str, *words: str) -> Question:
    """Spoil a probe's disk, or the journal's; mend it; ask whether the program said so, if it came to notice."""
    stand = case.stand
    disk = stand.journal_disk if writer is None else writer.disk
    program = stand.collector if writer is None else writer.program
    disk.follow()
    refusals, said = disk.refusals, _count(program, words)
    {"full": disk.full, "read_only": disk.read_only}[how]()
    case.wait(1.0, 2.0)
    if case.chance.random() < 0.5:  # noqa: PLR2004  # as often as not
        program.kill()
        case.wait(0.0, 0.3)
        program.start()
        case.wait(0.3, 1.0)
    disk.fine()

    def asked() -> list[str]:
        disk.follow()
        silent = disk.refusals > refusals and _count(program, words) == said
        return [f"{program.name} did not say '{words[0]}'"] if silent else []

    return asked


def _count(program: Program, words: tuple[str, ...]) -> int:
    log = program.log_file.read_text(errors="replace")
    return sum(log.count(word) for word in words)


FAULTS: Final[dict[str, Fault]] = {
    "agent killed": agent_killed,
    "collector killed": collector_killed,
    "broker killed": broker_killed,
    "broker forgets": broker_forgets,
    "broker drops": broker_drops,
    "influxdb killed": influx_killed,
    "influxdb away": influx_away,
    "several killed": several_killed,
    "probe loses power": probe_loses_power,
    "server loses power": server_loses_power,
    "spool's disk full": spool_disk_full,
    "spool's disk read-only": spool_disk_read_only,
    "journal's disk full": journal_disk_full,
    "journal's disk read-only": journal_disk_read_only,
    "spool damaged": spool_damaged,
    "messages repeated": messages_repeated,
    "old card put back": old_card,
    "two with one id": two_with_one_id,
}
