"""Which name servers belong to a link: what agent.yaml says, else what the programs that brought it up were told."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.measurements.base import MeasurementFailed, run_killable
from agent.modem.manager import name_servers_of_bearer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.path import LinkPath

_ASK_S: Final = 3.0
_KEPT_S: Final = 60.0
_MOST_KEPT: Final = 50
_SEPARATORS: Final = re.compile(r"[\s|,]+")


class Found(NamedTuple):
    """Addresses of name servers, in order, and who named them."""

    servers: tuple[str, ...]
    source: str


class Files(NamedTuple):
    """Where other programs leave what they were told; tests have their own."""

    networkd: Path = Path("/run/systemd/netif/links")
    pppd: Path = Path("/etc/ppp/resolv.conf")
    system: tuple[Path, ...] = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))


REAL: Final = Files()

_kept: dict[tuple[str, str | None], tuple[float, Found]] = {}


def of_link(path: LinkPath, files: Files = REAL) -> Found:
    """Find the link's name servers; none at all is an answer too. What was found is kept for a minute.

    In this order: `resolvers` of the link in agent.yaml; systemd-resolved; NetworkManager; systemd-networkd;
    ModemManager's bearer; pppd, for a ppp device; the machine's resolv.conf, those of this machine itself left out.
    Whoever names them, they are asked over this link.
    """
    if path.resolvers:
        return Found(path.resolvers, "set for the link")
    key = (path.interface, path.source_address)
    known = _kept.get(key)
    if known is not None and time.monotonic() < known[0]:
        return known[1]
    found = _find(path.interface, files)
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    _kept[key] = (time.monotonic() + _KEPT_S, found)
    return found


def of_namespace(namespace: str | None, folder: Path = Path("/etc/netns")) -> tuple[str, ...]:
    """Read what belongs to a network namespace of that name, where a link lives in one (ip-netns(8))."""
    return of_resolv_conf(folder / namespace / "resolv.conf") if namespace is not None else ()


def forget() -> None:
    """Look anew the next time."""
    _kept.clear()


def _find(interface: str, files: Files) -> Found:
    return next((found for found in _sources(interface, files) if found.servers), Found((), "nobody"))


def _sources(interface: str, files: Files) -> Iterator[Found]:
    """Ask one after the other, as far as the caller goes on."""
    yield Found(addresses_in(_told(["resolvectl", "dns", interface]).partition("):")[2]), "systemd-resolved")
    told = _told(["nmcli", "-e", "no", "-g", "IP4.DNS", "device", "show", interface])
    yield Found(addresses_in(told), "NetworkManager")
    yield Found(_of_networkd(interface, files.networkd), "systemd-networkd")
    yield Found(addresses_in(" ".join(name_servers_of_bearer(interface))), "ModemManager")
    if interface.startswith("ppp"):
        yield Found(of_resolv_conf(files.pppd), str(files.pppd))
    for file in files.system:
        yield Found(of_resolv_conf(file), str(file))


def _of_networkd(interface: str, folder: Path) -> tuple[str, ...]:
    """Read the state that systemd-networkd keeps of the device, `DNS=ADDRESS ...`."""
    try:
        text = (folder / str(socket.if_nametoindex(interface))).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return addresses_in(" ".join(line[4:] for line in text.splitlines() if line.startswith("DNS=")))


def of_resolv_conf(file: Path) -> tuple[str, ...]:
    """Read the IPv4 name servers of a resolv.conf(5), those of this machine itself left out."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return addresses_in(
        " ".join(words[1] for line in lines if (words := line.split())[:1] == ["nameserver"] and words[1:])
    )


def addresses_in(text: str) -> tuple[str, ...]:
    """Pick the IPv4 addresses of possible name servers out of a tool's answer (`#name` behind one is dropped)."""
    return tuple(dict.fromkeys(_addresses(_SEPARATORS.split(text))))


def _addresses(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        try:
            address = ipaddress.IPv4Address(word.partition("#")[0])
        except ValueError:
            continue
        if not address.is_loopback:
            yield str(address)


def _told(command: list[str]) -> str:
    """Ask a tool that may not be there, or not be running."""
    try:
        done = run_killable(command, deadline_s=_ASK_S)
    except MeasurementFailed:
        return ""
    return done.stdout.decode("utf-8", "replace") if done.status == 0 else ""
