"""The routing tables of the links, read and kept by iproute2. What they are to be says `agent.routing`.

Reading needs no privilege, changing needs CAP_NET_ADMIN. The agent lets none of the programs that it starts have it but
`ip`: a test that talks to strangers cannot touch the network's settings.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import subprocess
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent import routing
from agent.measurements.base import MeasurementFailed
from agent.namespace import inside
from agent.routing import FIRST_TABLE, IPV4, IPV6, MOST_LINKS, Change, Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.settings import Link

log = logging.getLogger(__name__)

_TOOL_TIMEOUT_S: Final = 15.0
_CAP_NET_ADMIN: Final = 12  # linux/capability.h
_PR_CAP_AMBIENT: Final = 47  # linux/prctl.h
_RAISE: Final = 2
_CLEAR_ALL: Final = 4
_FAMILIES: Final[tuple[Family, ...]] = (IPV4, IPV6)
_TABLES: Final = range(FIRST_TABLE, FIRST_TABLE + MOST_LINKS)
_STRICT: Final = 1  # ip-sysctl, rp_filter


class RoutesError(Exception):
    """The kernel's tables could not be read or changed; the text says which command said what."""


class Setting(NamedTuple):
    """A kernel parameter of an interface, /proc/sys/net/ipv4/conf/INTERFACE/NAME."""

    interface: str
    name: str
    value: int
    why: str

    @property
    def file(self) -> Path:
        """Where it is read and written."""
        return Path("/proc/sys/net/ipv4/conf", self.interface, self.name)

    @property
    def command(self) -> str:
        """As a person would set it; slashes, because an interface's name may have dots."""
        return f"sysctl -w net/ipv4/conf/{self.interface}/{self.name}={self.value}"


class Plan(NamedTuple):
    """What is to change in one network namespace. The agent's sandbox forbids it the `settings`."""

    namespace: str | None = None
    changes: tuple[Change, ...] = ()
    settings: tuple[Setting, ...] = ()
    remarks: tuple[str, ...] = ()


def table_of(links: Sequence[Link], name: str) -> int:
    """Give the number of a link's table: by its place in agent.yaml."""
    return FIRST_TABLE + [link.name for link in links].index(name)


def plan(links: Sequence[Link], *, only: str | None = None) -> list[Plan]:
    """Compare the kernel with what the links need, by namespace; raise RoutesError or MeasurementFailed.

    `only`: the others' tables and rules are left as they are.
    """
    found = []
    for namespace, group in groupby(sorted(links, key=_namespace), key=_namespace):
        meant = [
            link for link in group if link.routes == "keep" and only in {None, link.name} and link.interface != "lo"
        ]
        if meant:
            with inside(namespace or None):
                found.append(_plan(namespace or None, links, meant, only))
    return found


def removal(links: Sequence[Link], *, only: str | None = None) -> list[Plan]:
    """Say how to remove what is ours, by namespace; raise RoutesError or MeasurementFailed."""
    tables = _TABLES if only is None else range(table_of(links, only), table_of(links, only) + 1)
    meant = {link.namespace for link in links if only in {None, link.name}}
    found = []
    for namespace in sorted(meant, key=str):
        with inside(namespace):
            undo = [
                change
                for family in _FAMILIES
                for change in routing.removal(
                    family,
                    routing.read_kernel(rules=_rules(family), routes=_routes(family), tables=tables),
                )
            ]
            found.append(Plan(namespace, tuple(undo)))
    return found


def apply(wanted: Plan) -> None:
    """Make the changes; raise RoutesError, after those that could be made, or MeasurementFailed."""
    with inside(wanted.namespace):
        for family, group in groupby(wanted.changes, key=lambda change: change.family):
            lines = "\n".join(change.command for change in group)
            _ip(f"-{family}", "-batch", "-", script=lines)
        for setting in wanted.settings:
            with contextlib.suppress(OSError):  # read-only in the agent's sandbox, or gone meanwhile
                setting.file.write_text(f"{setting.value}\n", encoding="ascii")


class Keeper:
    """Keeps the tables of the running agent's links right. It never fails a run: what it cannot do it says once."""

    def __init__(self, links: Sequence[Link]) -> None:
        """Take the links; nothing is changed yet."""
        self._links = links
        self._complaint = ""

    def keep(self) -> None:
        """Look whether addresses or gateways have changed, and change the tables with them."""
        try:
            for wanted in plan(self._links):
                if wanted.changes and not may_change():
                    self._complain(
                        "the links' rules and routes are not as they should be, and the agent may not change them "
                        "(CAP_NET_ADMIN); as root: probe-agent link setup"
                    )
                    continue
                apply(wanted)
                for change in wanted.changes:
                    log.info("ip -%d %s (%s)", change.family, change.command, change.why)
        except (RoutesError, MeasurementFailed) as error:
            self._complain(str(error))

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.warning("%s", text)
        self._complaint = text


def may_change() -> bool:
    """Whether this process may change rules and routes."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("CapPrm:")), "0")
    return bool(int(mask, 16) >> _CAP_NET_ADMIN & 1)


def keep_rights_to_oneself() -> None:
    """Stop handing on to every program that is started what the unit gave the agent (ambient capabilities(7))."""
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)


@contextlib.contextmanager
def _handing_it_on() -> Iterator[None]:
    """Let what this thread starts meanwhile change the network; does nothing where we may not, or are root."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_CAP_AMBIENT, _RAISE, _CAP_NET_ADMIN, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)


def _namespace(link: Link) -> str:
    return link.namespace or ""


def _plan(namespace: str | None, links: Sequence[Link], meant: Sequence[Link], only: str | None) -> Plan:
    addresses = _read("address", "show")
    wanted: list[Change] = []
    remarks: list[str] = []
    tables = {link.name: table_of(links, link.name) for link in links}
    if only is not None:
        left_alone = set(_TABLES) - {tables[only]}
    else:
        left_alone = {tables[link.name] for link in links if link.routes == "leave"}
    for family in _FAMILIES:
        routes, rules = _routes(family), _rules(family)
        if family == IPV6 and not rules:  # a kernel without IPv6 has none of its own either
            continue
        facts = [
            routing.read_link(
                link.name,
                link.interface,
                tables[link.name],
                family=family,
                addresses=addresses,
                routes=routes,
                gateway=link.gateway if family == IPV4 else None,
            )
            for link in meant
        ]
        kernel = routing.read_kernel(rules=rules, routes=routes, tables=_TABLES)
        wanted += routing.changes(family, facts, kernel, left_alone=left_alone)
        remarks += kernel.remarks
        if family == IPV4:
            remarks += [remark for link in facts for remark in routing.remarks(link)]
    settings = _settings(meant, _routes(IPV4))
    return Plan(namespace, tuple(wanted), tuple(settings), tuple(dict.fromkeys(remarks)))


def _settings(meant: Sequence[Link], routes: Sequence[dict[str, Any]]) -> list[Setting]:
    """Find the interfaces whose replies the kernel would drop, and those that would answer for each other."""
    found = [
        Setting(link.interface, "rp_filter", 2, f"the strict filter drops replies on {link.interface}")
        for link in meant
        if _in_force(link.interface, "rp_filter") == _STRICT
    ]
    for one, *others in routing.sharing(routes, [link.interface for link in meant]):
        why = f"{one} and {', '.join(others)} are in one network: each is to answer for its own address only"
        found += [
            Setting(interface, "arp_ignore", 1, why)
            for interface in (one, *others)
            if _in_force(interface, "arp_ignore") == 0
        ]
    return list(dict.fromkeys(found))


def _rules(family: Family) -> list[dict[str, Any]]:
    return _read(f"-{family}", "rule", "show")


def _routes(family: Family) -> list[dict[str, Any]]:
    return _read(f"-{family}", "route", "show", "table", "all")


def _read(*words: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(_ip("-N", "-j", *words) or "[]")
    except ValueError as error:
        raise RoutesError(f"ip {' '.join(words)}: its answer cannot be read: {error}") from error
    return [entry for entry in found if entry]


def _ip(*words: str, script: str | None = None) -> str:
    handing_on = _handing_it_on() if script is not None else contextlib.nullcontext()
    try:
        with handing_on:
            done = subprocess.run(
                ["ip", *words], input=script, capture_output=True, text=True, check=False, timeout=_TOOL_TIMEOUT_S
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise RoutesError(f"ip {' '.join(words)}: {error}") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise RoutesError(f"ip {' '.join(words)}: {said}" + (f"; asked: {script}" if script else ""))
    return done.stdout


def _in_force(interface: str, name: str) -> int:
    """Read a parameter of an interface; the larger of its own and that for all counts (ip-sysctl). 0 if not there."""
    values = [0]
    for place in ("all", interface):
        with contextlib.suppress(OSError, ValueError):
            values.append(int(Path("/proc/sys/net/ipv4/conf", place, name).read_text(encoding="ascii")))
    return max(values)
