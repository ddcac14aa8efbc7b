"""Names of test servers, looked up through the link that is tested: at its own name servers, over its own device.

Never over another link: where no name server of the link answers, the run fails and says so. Addresses need no look-up;
`localhost` and the names of /etc/hosts come from this machine alone. Answers are kept for their time to live.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import dns_client, name_servers
from agent.dns_message import Kind, NotAName
from agent.measurements.base import MeasurementFailed
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.path import LinkPath

_HOSTS: Final = Path("/etc/hosts")
_TRIES_S: Final = (2.0, 4.0)
"""How long each round through the name servers waits for each of them."""
_LONGEST_KEPT_S: Final = 3600
_MOST_KEPT: Final = 100
_FINAL: Final = {Reason.NO_SUCH_NAME, Reason.NAME_NOT_RESOLVED}
"""A server that says so is believed; other failures send us to the next one."""
_KINDS: Final = {socket.AF_INET: Kind.A, socket.AF_INET6: Kind.AAAA}
_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class _Kept(NamedTuple):
    address: str
    until_s: float


_kept: dict[tuple[str, str | None, str, int], _Kept] = {}


def resolve(
    path: LinkPath,
    host: str,
    *,
    family: socket.AddressFamily = socket.AF_INET,
    timeout_s: float = 10.0,
    fresh: bool = False,
) -> str:
    """Return an address of `host`, IPv4 or IPv6; raise MeasurementFailed (NAME_NOT_RESOLVED) within `timeout_s`.

    `fresh`: ask even if an answer is known. The name is taken as it stands, without any search domain.
    """
    literal = _literal(host, family)
    if literal is not None:
        return literal
    name = host.lower().removesuffix(".")
    local = _local(name, family)
    if local is not None:
        return local
    if name.rpartition(".")[2] == "invalid":  # RFC 6761 section 6.4: there are none, and no server need be asked
        raise MeasurementFailed(Reason.NAME_NOT_RESOLVED, f"there is no {host}")
    key = (path.interface, path.source_address, name, family)
    known = _kept.get(key)
    if known is not None and not fresh and time.monotonic() < known.until_s:
        return known.address
    answer = _ask(path, host, family, timeout_s)
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    _kept[key] = _Kept(answer.addresses[0], time.monotonic() + min(answer.ttl_s, _LONGEST_KEPT_S))
    return answer.addresses[0]


def forget() -> None:
    """Ask anew from now on."""
    _kept.clear()
    name_servers.forget()


def _literal(host: str, family: socket.AddressFamily) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if (address.version == 6) != (family == socket.AF_INET6):  # noqa: PLR2004  # the version's own number
        wanted = "IPv6" if family == socket.AF_INET6 else "IPv4"
        raise MeasurementFailed(Reason.NAME_NOT_RESOLVED, f"no {wanted} address found for {host}")
    return str(address)


def _local(name: str, family: socket.AddressFamily) -> str | None:
    """Look into hosts(5); `localhost` needs no line there (RFC 6761 section 6.3)."""
    if name == "localhost" or name.endswith(".localhost"):
        return _LOOPBACK[family]
    try:
        lines = _HOSTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if name in (one.lower() for one in names) and (":" in address) == (family == socket.AF_INET6):
            return address
    return None


def _ask(path: LinkPath, host: str, family: socket.AddressFamily, timeout_s: float) -> dns_client.Answer:
    found = name_servers.of_link(path)
    if not found.servers:
        raise MeasurementFailed(
            Reason.NAME_NOT_RESOLVED,
            f"{host}: no name server of {path.interface} is known; give the link `resolvers` in agent.yaml",
        )
    give_up_s = time.monotonic() + timeout_s
    told: list[str] = []
    for try_s in _TRIES_S:
        for server in found.servers:
            left_s = min(try_s, give_up_s - time.monotonic())
            if left_s <= 0:
                break
            try:
                return dns_client.ask(path, server, host, _KINDS[family], timeout_s=left_s)
            except NotAName as error:
                raise MeasurementFailed(Reason.NAME_NOT_RESOLVED, str(error)) from error
            except dns_client.LookupFailed as failure:
                told.append(str(failure))
                if failure.reason in _FINAL:
                    raise MeasurementFailed(Reason.NAME_NOT_RESOLVED, f"{host}: {failure}") from failure
    what = "; ".join(dict.fromkeys(told)) or f"no answer within {timeout_s:g} s"
    raise MeasurementFailed(Reason.NAME_NOT_RESOLVED, f"{host}, asked over {path.interface} alone: {what}")
