"""The site list: which probes there are, in which group, and what each may do at the broker.

`sites.yaml` is the authority: from it comes the broker's access list (`probe-collector acl`), so that a probe that
leaves the list can do nothing more, also over a connection that it still holds; and it says which probes a collector
that serves only some groups subscribes to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from base import configfile
from base.share import MAX_PLACES, MAX_ROOM
from wire import topics
from wire.form import Name

if TYPE_CHECKING:
    from pathlib import Path

PROBE_WRITES: Final = (topics.RESULT, topics.STATUS, topics.REPLY, topics.LEASE_REQUEST)
PROBE_READS: Final = (topics.ACK, topics.COMMAND, topics.LEASE_GRANT)
_COLLECTOR_READS: Final = (topics.RESULT, topics.STATUS, topics.REPLY, topics.RESPONDER)
_COLLECTOR_WRITES: Final = (topics.ACK, topics.COMMAND)
_RESPONDER_READS: Final = (topics.LEASE_REQUEST, topics.LENDING)
_RESPONDER_WRITES: Final = (topics.LEASE_GRANT, topics.RESPONDER, topics.LENDING)


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site and its probes; `group` is what collectors are shared out by."""

    id: Name
    probes: tuple[Name, ...]
    group: Name | None = None


class Fleet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of sites.yaml. `collectors` and `responders` are the names of the broker's users for these programs."""

    sites: tuple[Site, ...]
    collectors: tuple[Name, ...] = ("collector",)
    responders: tuple[Name, ...] = ("responder",)

    def probes(self, groups: Sequence[str] | None = None) -> tuple[str, ...]:
        """Name the probes of some groups, or all."""
        return tuple(probe for site in self.sites if groups is None or site.group in groups for probe in site.probes)

    def unknown(self, groups: Sequence[str]) -> tuple[str, ...]:
        """Name those of the groups that no site is in."""
        known = {site.group for site in self.sites}
        return tuple(group for group in groups if group not in known)


def load(path: Path) -> Fleet:
    """Read sites.yaml; raise base.configfile.ConfigError naming every mistake."""
    return configfile.load(path, Fleet, _cross_check, option="--sites, or serves.sites_file in collector.yaml")


class Right(NamedTuple):
    """What one user of the broker may read and write: topics, with MQTT's wildcards."""

    user: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def rights(fleet: Fleet) -> list[Right]:
    """Say what each user may do; who is not named may do nothing."""
    found = [_right(user, "+", _COLLECTOR_READS, _COLLECTOR_WRITES) for user in fleet.collectors]
    found += [_right(user, "+", _RESPONDER_READS, _RESPONDER_WRITES) for user in fleet.responders]
    return found + [_right(probe, probe, PROBE_READS, PROBE_WRITES) for probe in fleet.probes()]


def acl(fleet: Fleet) -> str:
    """Write mosquitto's access list (mosquitto.conf(5), acl_file)."""
    blocks = ["# Made from the site list by `probe-collector acl`: change that, not this."]
    for right in rights(fleet):
        lines = [f"user {right.user}"]
        lines += [f"topic read {topic}" for topic in right.reads]
        lines += [f"topic write {topic}" for topic in right.writes]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


class Place(NamedTuple):
    """What a link's `share` in agent.yaml says: its place among all that share the test servers, from 0 on."""

    probe: str
    link: int
    place: int
    of: int
    room: int


def places(fleet: Fleet, *, links_each: int, room: int, of: int | None = None) -> list[Place]:
    """Give each link a number in the order of the list, `links_each` a probe; raise ValueError for what is no `share`.

    A greater `of` leaves room for sites to come: they are appended, and nobody's place changes.
    """
    probes = fleet.probes()
    of = of or len(probes) * links_each
    if of < len(probes) * links_each:
        raise ValueError(f"{len(probes)} probes with {links_each} links each need {len(probes) * links_each} places")
    if of > MAX_PLACES:
        raise ValueError(f"{of} places; agent.yaml takes at most {MAX_PLACES}")
    if room > MAX_ROOM:
        raise ValueError(f"room for {room} tests at once; agent.yaml takes at most {MAX_ROOM}")
    return [
        Place(probe, link + 1, number * links_each + link, of, room)
        for number, probe in enumerate(probes)
        for link in range(links_each)
    ]


def _right(user: str, branch: str, reads: Sequence[str], writes: Sequence[str]) -> Right:
    return Right(
        user,
        tuple(topics.topic(branch, leaf) for leaf in reads),
        tuple(topics.topic(branch, leaf) for leaf in writes),
    )


def _cross_check(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find names that stand twice: every user of the broker is one program."""
    seen: dict[object, str] = {}
    for where, name in _names(document):
        if name in seen:
            yield where, f"'{name}' stands twice: also at {seen[name]}; every probe and program has a name of its own"
        else:
            seen[name] = where


def _names(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("collectors", "responders"):
        yield from _texts(key, document.get(key))
    sites = document.get("sites")
    for number, site in enumerate(sites if isinstance(sites, list) else []):
        if isinstance(site, Mapping):
            yield from _texts(f"sites[{number}].probes", site.get("probes"))


def _texts(where: str, names: object) -> Iterator[tuple[str, str]]:
    for number, name in enumerate(names if isinstance(names, list) else []):
        if isinstance(name, str):
            yield f"{where}[{number}]", name
