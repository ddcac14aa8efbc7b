"""The recovery ladder as a pure state machine: what is known and the hour go in, what to do next comes out.

No I/O. The memory is a value; whoever keeps it on disk writes it before a rung is done, so that a rung that was cut off
counts as tried. Rungs, guards and caps follow the modem notes, section 7; each rung is off until agent.yaml allows it.

The rules, in the order in which they are asked:
1. A link that works is left alone. Nothing is done while a test runs.
2. What no reset cures (a refused subscription, a SIM that is missing or locked, a port held by somebody, an outage that
   other uplinks share) is told, once a day, and left alone.
3. Nothing is done in the first minutes after a start of the machine.
4. The lowest rung that fits, that has not been tried since the trouble began, is done when its time has come. A rung
   that is cooling down is waited for, not passed over; one that has used up its day, or is barred, is passed over.
5. When all have been tried it begins again at the bottom, each pause twice as long as the one before.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from wire.events import Diagnosis
from wire.reasons import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_S: Final = 86_400.0
USB_POWER: Final = 5
HOST_REBOOT: Final = 6
RUNGS: Final = {
    1: "re-register",
    2: "radio off and on",
    3: "modem reboot",
    4: "USB re-plug by the kernel",
    USB_POWER: "USB power off and on",
    HOST_REBOOT: "host reboot",
}
COOL_DOWN_S: Final = {1: 300, 2: 900, 3: 3600, 4: 3600, 5: 6 * 3600, HOST_REBOOT: 6 * 3600}
"""The pause before the same rung may be tried again; it doubles with every try that did not help, up to a day."""
DAILY_CAP: Final = {1: 12, 2: 8, 3: 3, 4: 3, 5: 1, HOST_REBOOT: 1}
TROUBLE_S: Final = {1: 0, 2: 0, 3: 300, 4: 600, 5: 1800, HOST_REBOOT: 3600}
"""How long a link must have been in trouble before a rung is worth its side effects; also the way round a cell's outage
of a few minutes."""
SETTLED_UPTIME_S: Final = 600.0
REBOOTS_IN_A_ROW: Final = 3
ALERT_AGAIN_S: Final = DAY_S
_TRIES_KEPT: Final = 64
_SOON_S: Final = 30.0
_LATER_S: Final = 900.0

# What a reset cannot cure, and what a person can do about it.
_HOPELESS: Final = {
    Condition.DENIED: "the operator refuses the subscription; ask the operator, no reset helps",
    Condition.SIM_ABSENT: "there is no SIM; put one in",
    Condition.SIM_LOCKED: "the SIM waits for a code; see pin_file in agent.yaml, or switch its PIN off in a phone",
    Condition.PORT_HELD: "the port is not ours to use; `probe-agent modem list` shows who holds it",
    Condition.NEEDS_HANDS: "somebody has to look at it",
}
# The lowest rung that can do anything: without an answer to AT there is nobody to tell; without a device on the bus
# there is nothing to re-plug by software either.
_LOWEST: Final = {Condition.SILENT: 4, Condition.ABSENT: USB_POWER}

RungNumber = Annotated[int, msgspec.Meta(ge=1, le=HOST_REBOOT)]
Pause = Annotated[int, msgspec.Meta(ge=60, le=7 * 86_400)]
Cap = Annotated[int, msgspec.Meta(ge=0, le=24)]


class Hub(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A USB hub port whose power can be switched, as uhubctl names it: `location: 1-1`, `port: 2`."""

    location: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(-[0-9]+(\.[0-9]+)*)?\Z")]
    port: Annotated[int, msgspec.Meta(ge=1, le=32)]


class RecoveryOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link's `recovery:` in agent.yaml. Without rungs the ladder only tells what is wrong.

    `after_failures`: so many failed runs of one job in a row bring the ladder out. `check`: `host:port` to which a TCP
    connection over the link shows that traffic flows; without it an address counts as working. `cool_down_s` and
    `daily_cap` replace the defaults, by rung.
    """

    rungs: tuple[RungNumber, ...] = ()
    after_failures: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    check: tuple[Annotated[str, msgspec.Meta(pattern=r"^[^\s:]+:[0-9]{1,5}\Z")], ...] = ()
    cool_down_s: dict[RungNumber, Pause] = {}
    daily_cap: dict[RungNumber, Cap] = {}
    hub: Hub | None = None

    def cap(self, rung: int) -> int:
        """How often a rung may be tried within 24 hours."""
        return self.daily_cap.get(rung, DAILY_CAP[rung])

    def pause_s(self, rung: int, fruitless: int) -> float:
        """Return the cool-down of a rung after so many tries in a row that did not help."""
        base = float(self.cool_down_s.get(rung, COOL_DOWN_S[rung]))
        return max(base, min(base * 2.0 ** min(max(fruitless - 1, 0), 20), DAY_S))


# --- time -----------------------------------------------------------------------------------------------------------


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """An instant that survives restarts: wall time and whether it could be trusted, and time since that boot."""

    wall_s: float
    up_s: float
    boot: str
    synchronised: bool

    def since_s(self, earlier: Moment) -> float:
        """Return the time passed since `earlier`, or less: a pause may last longer than it should, never shorter.

        Within one boot the monotonic clock tells. Across boots the wall clock does where both ends were synchronised;
        otherwise only the time since this boot is certain: a machine without a battery clock may wake up in any year.
        """
        if earlier.boot == self.boot:
            return max(0.0, self.up_s - earlier.up_s)
        if earlier.synchronised and self.synchronised:
            return max(self.up_s, self.wall_s - earlier.wall_s)
        return self.up_s


# --- memory ---------------------------------------------------------------------------------------------------------


class RungMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Tries of one rung, oldest first, and how many of the last ones in a row did not help."""

    tries: tuple[Moment, ...] = ()
    fruitless: int = 0

    def within_a_day(self, now: Moment) -> tuple[Moment, ...]:
        """Return the tries of the last 24 hours."""
        return tuple(at for at in self.tries if now.since_s(at) < DAY_S)


class UnderWay(msgspec.Struct, frozen=True, kw_only=True):
    """A rung that has begun and is not known to have ended."""

    rung: int
    began: Moment
    before: Diagnosis


class LinkMemory(msgspec.Struct, frozen=True, kw_only=True):
    """One link's trouble: when it began, which rungs were tried since, and what was told to people."""

    rungs: dict[int, RungMemory] = {}
    trouble: Moment | None = None
    tried: tuple[int, ...] = ()
    reboots_in_a_row: int = 0
    under_way: UnderWay | None = None
    alerted: dict[Condition, Moment] = {}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What must survive restarts. The host is one for all links, and so are the tries of its reboot."""

    kept_since: Moment
    links: dict[str, LinkMemory] = {}
    reboots: RungMemory = RungMemory()

    def link(self, name: str) -> LinkMemory:
        """Return what is known of a link."""
        return self.links.get(name, LinkMemory())

    def rung(self, link: str, rung: int) -> RungMemory:
        """Return what is known of a rung on a link."""
        return self.reboots if rung == HOST_REBOOT else self.link(link).rungs.get(rung, RungMemory())

    def with_link(self, name: str, memory: LinkMemory) -> Memory:
        """Return a memory with this link's replaced."""
        return msgspec.structs.replace(self, links={**self.links, name: memory})

    def with_rung(self, link: str, rung: int, memory: RungMemory) -> Memory:
        """Return a memory with this rung's replaced."""
        if rung == HOST_REBOOT:
            return msgspec.structs.replace(self, reboots=memory)
        known = self.link(link)
        return self.with_link(link, msgspec.structs.replace(known, rungs={**known.rungs, rung: memory}))


# --- decisions ------------------------------------------------------------------------------------------------------


class Verb(Enum):
    """What to do with a link now."""

    ACT = auto()
    WAIT = auto()
    ALERT = auto()
    REST = auto()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, and why. `rung` is set with ACT; `retry_in_s`: when to ask again, always positive but with ACT."""

    verb: Verb
    why: str
    rung: int | None = None
    retry_in_s: float = 0.0
    rungs: tuple[tuple[int, str], ...] = ()
    """For each allowed rung, why it was or was not chosen."""


class _Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a rung stands: `wait_s` 0 means that it may be done now; `passed` that it is not waited for."""

    wait_s: float
    passed: bool
    why: str


def observe(memory: Memory, link: str, diagnosis: Diagnosis, now: Moment) -> Memory:
    """Take in one look at a link: trouble begins, goes on, or is over."""
    known = memory.link(link)
    if diagnosis.condition is Condition.HEALTHY:
        if known == LinkMemory():
            return memory
        rungs = {rung: RungMemory(tries=seen.tries) for rung, seen in known.rungs.items()}
        if known.reboots_in_a_row:
            memory = msgspec.structs.replace(memory, reboots=RungMemory(tries=memory.reboots.tries))
        return memory.with_link(link, LinkMemory(rungs=rungs, under_way=known.under_way))
    if known.trouble is None:
        known = msgspec.structs.replace(known, trouble=now)
    return memory.with_link(link, known)


def decide(
    options: RecoveryOptions, memory: Memory, link: str, diagnosis: Diagnosis, now: Moment, *, testing: bool
) -> Decision:
    """Say what to do about a link that was observed to be in this condition just now."""
    return _guard(options, diagnosis.condition, now, testing=testing) or _climb(
        options, memory, link, diagnosis.condition, now
    )


def _guard(options: RecoveryOptions, condition: Condition, now: Moment, *, testing: bool) -> Decision | None:
    """Return the decision where no rung may be thought of at all."""
    verb, why, retry_in_s = Verb.WAIT, "", _LATER_S
    if condition is Condition.HEALTHY:
        verb, why, retry_in_s = Verb.REST, "the link works", _SOON_S
    elif testing:
        why, retry_in_s = "a test runs", _SOON_S
    elif condition in _HOPELESS:
        verb, why = Verb.ALERT, _HOPELESS[condition]
    elif condition is Condition.REMOTE:
        why = "other uplinks fail alike, so the outage is not this modem's"
    elif not options.rungs:
        verb, why = Verb.ALERT, "no rung of the ladder is allowed in agent.yaml (recovery.rungs)"
    elif now.up_s < SETTLED_UPTIME_S:
        why = f"the machine runs for {now.up_s:.0f} s only; the first {SETTLED_UPTIME_S:.0f} s belong to the modem"
        retry_in_s = SETTLED_UPTIME_S - now.up_s
    return Decision(verb=verb, why=why, retry_in_s=retry_in_s) if why else None


def _climb(options: RecoveryOptions, memory: Memory, link: str, condition: Condition, now: Moment) -> Decision:
    lowest = _LOWEST.get(condition, 1)
    fitting = [rung for rung in sorted(set(options.rungs)) if rung >= lowest]
    standings = {rung: _standing(options, memory, link, rung, now) for rung in fitting}
    told = [(rung, f"cannot help a modem that is {condition}") for rung in sorted(set(options.rungs)) if rung < lowest]
    told += [(rung, standing.why) for rung, standing in standings.items()]
    rungs = tuple(told)
    if not fitting:
        why = f"the modem is {condition}, and no allowed rung can help that"
        return Decision(verb=Verb.ALERT, why=why, retry_in_s=_LATER_S, rungs=rungs)
    untried = [rung for rung in fitting if rung not in memory.link(link).tried and not standings[rung].passed]
    # Of those not tried yet the lowest is done or waited for; when all were tried, whichever is free first.
    candidates = untried[:1] or fitting
    best = min(candidates, key=lambda rung: (standings[rung].wait_s, rung))
    standing = standings[best]
    if standing.wait_s <= 0:
        return Decision(verb=Verb.ACT, rung=best, why=f"the link is {condition}: {RUNGS[best]}", rungs=rungs)
    why = f"{RUNGS[best]} comes next, {standing.why}"
    return Decision(verb=Verb.WAIT, why=why, retry_in_s=max(1.0, standing.wait_s), rungs=rungs)


def _standing(options: RecoveryOptions, memory: Memory, link: str, rung: int, now: Moment) -> _Standing:
    waits = [(0.0, "may be done now", False), *_waits(options, memory, link, rung, now=now)]
    wait_s, why, passed = max(waits, key=lambda wait: wait[0])
    if rung in memory.link(link).tried:
        why = f"tried since the trouble began; {why}"
    return _Standing(wait_s=wait_s, passed=passed or any(wait[2] for wait in waits), why=why)


def _waits(
    options: RecoveryOptions, memory: Memory, link: str, rung: int, *, now: Moment
) -> Iterator[tuple[float, str, bool]]:
    """Yield each thing that holds a rung back: for how long, why, and whether higher rungs go past it meanwhile."""
    known = memory.rung(link, rung)
    trouble = memory.link(link).trouble
    lasted_s = now.since_s(trouble) if trouble is not None else 0.0
    if lasted_s < TROUBLE_S[rung]:
        yield TROUBLE_S[rung] - lasted_s, f"after {TROUBLE_S[rung]} s of trouble, now {lasted_s:.0f} s", False
    pause_s = options.pause_s(rung, known.fruitless)
    if known.tries and (left_s := pause_s - now.since_s(known.tries[-1])) > 0:
        yield left_s, f"cools down for another {left_s:.0f} s", False
    today, cap = known.within_a_day(now), options.cap(rung)
    if len(today) >= cap:
        left_s = DAY_S - now.since_s(today[-cap]) if cap else DAY_S
        yield max(1.0, left_s), f"was tried {len(today)} times within 24 h, and {cap} is the limit", True
    if rung != HOST_REBOOT:
        return
    in_a_row = memory.link(link).reboots_in_a_row
    if in_a_row >= REBOOTS_IN_A_ROW:
        yield DAY_S, f"{in_a_row} reboots in a row did not help: the next one waits for a person", True
    if memory.kept_since.boot == now.boot and now.up_s < DAY_S:
        why = "the memory has not shown yet that it survives a restart, so it could not stop a chain of reboots"
        yield DAY_S - now.up_s, why, True


# --- doing it -------------------------------------------------------------------------------------------------------


def begin(memory: Memory, link: str, rung: int, before: Diagnosis, now: Moment) -> Memory:
    """Note that a rung begins: from here on it counts as tried, and as one that did not help."""
    known = memory.rung(link, rung)
    tries = (*known.within_a_day(now), now)[-_TRIES_KEPT:]
    memory = memory.with_rung(link, rung, RungMemory(tries=tries, fruitless=known.fruitless + 1))
    mine = memory.link(link)
    in_a_row = mine.reboots_in_a_row + (rung == HOST_REBOOT)
    tried = (rung,) if rung in mine.tried else (*mine.tried, rung)
    under_way = UnderWay(rung=rung, began=now, before=before)
    changed = msgspec.structs.replace(mine, tried=tried, under_way=under_way, reboots_in_a_row=in_a_row)
    return memory.with_link(link, changed)


def finish(memory: Memory, link: str, after: Diagnosis, now: Moment) -> Memory:
    """Note how the link is after the rung that was under way."""
    known = msgspec.structs.replace(memory.link(link), under_way=None)
    return observe(memory.with_link(link, known), link, after, now)


def alert_due(memory: Memory, link: str, condition: Condition, now: Moment) -> bool:
    """Whether people have not been told of this since the trouble began, or not for a day."""
    at = memory.link(link).alerted.get(condition)
    return at is None or now.since_s(at) >= ALERT_AGAIN_S


def alerted(memory: Memory, link: str, condition: Condition, now: Moment) -> Memory:
    """Note that people were told."""
    known = memory.link(link)
    return memory.with_link(link, msgspec.structs.replace(known, alerted={**known.alerted, condition: now}))
