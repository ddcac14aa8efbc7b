"""Cells shared among the responders of a group. Pure: words come in and go out, time is an argument.

Every word goes over one topic, and the broker hands the words of a topic to everybody in one order (MQTT 3.1.1, 4.6,
with one broker). So a claim is settled when its own sender hears it: it is won if no claim that was heard before it,
and not given back since, is for the same cell at the same time. Nobody votes, nobody leads, no clock is compared: of
two claims that exclude each other the first one in the topic wins, at most, and who hears later ones need not care.

Who has just come, or come back, says hello, hears what the others hold, and claims nothing before SETTLE_S have passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from responder.leases import Taken
from wire.leases import Claim, GroupWord

if TYPE_CHECKING:
    from responder.leases import Lease

SETTLE_S: Final = 4.0
"""Longer than any responder is busy with starting a lease's servers, and hears nothing (`servers.start`: 3 s)."""
DEAF_AFTER_S: Final = 30.0
LOST_AFTER_S: Final = 5.0
"""A claim of ours that the broker has not handed back by then was lost with the connection."""
_AHEAD_SLACK_S: Final = 1.0
"""By how much more than a lease's length is claimed to start it early: the answer takes a moment."""


class Settled(NamedTuple):
    """What became of the claim with which a lease was asked for."""

    token: str
    won: bool


class _Mine(NamedTuple):
    """A claim of ours; `first`: the one its lease depends on, not one to start it earlier."""

    token: str
    taken: Taken
    sent_s: float
    first: bool


class Group:
    """One responder's view of its group."""

    def __init__(self, responder_id: str, run: str) -> None:
        """`run` is another one at every start."""
        self._responder_id = responder_id
        self._run = run
        self._words: list[GroupWord] = []
        self._number = 0
        self._asked: dict[int, _Mine] = {}
        self._held: dict[int, _Mine] = {}
        self._theirs: dict[str, tuple[str, dict[int, Taken]]] = {}
        self._ready_s = self._deaf_s = float("inf")

    def take_words(self) -> list[GroupWord]:
        """Hand over what is to be sent, in this order."""
        words, self._words = self._words, []
        return words

    def connected(self, now_s: float) -> None:
        """Begin, or begin again: the broker is there, and the subscription was made before what is sent from now on."""
        self._ready_s = float("inf")
        self._deaf_s = now_s + DEAF_AFTER_S
        self._words.clear()
        self._say_all(now_s, hello=True)

    def ready(self, now_s: float) -> bool:
        """Whether everybody else has had the time to say what he holds."""
        return now_s >= self._ready_s

    def is_deaf(self, now_s: float) -> bool:
        """Whether our own hello should have come back by now, and has not."""
        return self._ready_s == float("inf") and now_s >= self._deaf_s

    def elsewhere(self, now_s: float) -> tuple[Taken, ...]:
        """List what others claim; what is over is forgotten."""
        for name, (run, claims) in self._theirs.items():
            self._theirs[name] = run, {number: one for number, one in claims.items() if one.expires_s > now_s}
        return tuple(one for _, claims in self._theirs.values() for one in claims.values())

    def claim(self, lease: Lease, now_s: float) -> None:
        """Ask for a lease's cell and time; `hear` will say what came of it."""
        self._claim(lease, lease.starts_s, lease.expires_s, now_s, first=True)

    def give_back(self, token: str) -> None:
        """Give back everything that was claimed for a lease."""
        self._give_back([n for n, mine in (self._asked | self._held).items() if mine.token == token])

    def hear(self, word: GroupWord, now_s: float) -> list[Settled]:
        """Take in a word of the topic, our own ones among them; return what is settled by it."""
        if word.responder != self._responder_id:
            self._hear_others(word, now_s)
            return []
        if word.run != self._run:
            return []
        if word.hello:
            self._ready_s = now_s + SETTLE_S
        settled = []
        others = self.elsewhere(now_s)
        for number in [claim.id for claim in word.claims if claim.id in self._asked]:
            mine = self._asked.pop(number)
            self._held[number] = mine
            won = not any(other.excludes(*mine.taken) for other in others)
            if not won:
                self._give_back([number])
            if mine.first:
                settled.append(Settled(mine.token, won))
        return settled

    def late(self, now_s: float) -> list[Settled]:
        """Give up claims that were never handed back; return those that leases depend on."""
        late = {number: mine for number, mine in self._asked.items() if now_s - mine.sent_s > LOST_AFTER_S}
        self._give_back(list(late))
        return [Settled(mine.token, won=False) for mine in late.values() if mine.first]

    def may_start(self, lease: Lease, now_s: float) -> bool:
        """Whether a booked lease may start: at its time; before it, if the cell is ours, which is asked for if not."""
        if any(mine.first and mine.token == lease.token for mine in self._asked.values()):
            return False
        if lease.starts_s <= now_s:
            return True
        early = {n: mine for n, mine in self._held.items() if mine.token == lease.token and not mine.first}
        if any(mine.taken.expires_s >= now_s + lease.length_s for mine in early.values()):
            return True
        if not any(mine.token == lease.token for mine in self._asked.values()):
            self._give_back(list(early))
            self._claim(lease, now_s, now_s + lease.length_s + _AHEAD_SLACK_S, now_s, first=False)
        return False

    def started(self, lease: Lease, now_s: float) -> None:
        """Keep of a lease's claims the one under which it has started."""
        mine = {n: one for n, one in self._held.items() if one.token == lease.token}
        self._give_back([n for n, one in mine.items() if one.taken.starts_s > now_s])

    # --- inside -------------------------------------------------------------------------------------------------------

    def _claim(self, lease: Lease, starts_s: float, expires_s: float, now_s: float, *, first: bool) -> None:
        self._number += 1
        mine = _Mine(lease.token, Taken(lease.link_name, lease.cell or "", starts_s, expires_s), now_s, first)
        self._asked[self._number] = mine
        self._say((_claim(self._number, mine.taken, now_s),))

    def _give_back(self, numbers: list[int]) -> None:
        for number in numbers:
            self._asked.pop(number, None)
            self._held.pop(number, None)
        if numbers:
            self._say(tuple(Claim(id=number) for number in numbers))

    def _say(self, claims: tuple[Claim, ...]) -> None:
        self._words.append(GroupWord(responder=self._responder_id, run=self._run, claims=claims))

    def _say_all(self, now_s: float, *, hello: bool = False) -> None:
        """Say everything that is claimed, also what is not settled yet: it went before, and would now be forgotten."""
        self._held = {number: mine for number, mine in self._held.items() if mine.taken.expires_s > now_s}
        claims = tuple(_claim(number, mine.taken, now_s) for number, mine in (self._held | self._asked).items())
        word = GroupWord(responder=self._responder_id, run=self._run, claims=claims, whole=True, hello=hello)
        self._words.append(word)

    def _hear_others(self, word: GroupWord, now_s: float) -> None:
        run, known = self._theirs.get(word.responder, ("", {}))
        if word.whole or word.run != run:
            known = {}
        for claim in word.claims:
            if claim.ends_in_s <= 0:
                known.pop(claim.id, None)
            else:
                known[claim.id] = Taken(claim.link, claim.cell, now_s + claim.starts_in_s, now_s + claim.ends_in_s)
        self._theirs[word.responder] = word.run, known
        if word.hello:
            self._say_all(now_s)


def _claim(number: int, taken: Taken, now_s: float) -> Claim:
    return Claim(
        id=number,
        link=taken.link,
        cell=taken.cell,
        starts_in_s=round(max(taken.starts_s - now_s, 0.0), 3),
        ends_in_s=round(max(taken.expires_s - now_s, 0.0), 3),
    )
