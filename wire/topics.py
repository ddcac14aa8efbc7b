"""Topic names: `probefleet/v1/<probe_id>/<leaf>`. A probe may touch only its own branch (broker ACL by user name)."""

from __future__ import annotations

from typing import Final, NamedTuple

ROOT: Final = "probefleet/v1"

RESULT: Final = "result"
STATUS: Final = "status"
ACK: Final = "ack"
COMMAND: Final = "command"
REPLY: Final = "reply"
LEASE_REQUEST: Final = "lease/request"
LEASE_GRANT: Final = "lease/grant"
RESPONDER: Final = "responder"
"""A responder's own status, in the branch that bears the responder's name."""
LENDING: Final = "lending"
"""What the responders of one group tell each other, in the branch that bears the group's name."""


class Address(NamedTuple):
    """Whose branch, and which leaf of it."""

    probe_id: str
    leaf: str


def topic(probe_id: str, leaf: str) -> str:
    """Name one topic of one probe."""
    return f"{ROOT}/{probe_id}/{leaf}"


def every_probe(leaf: str) -> str:
    """Name the subscription that hears this leaf of every probe."""
    return topic("+", leaf)


def shared(group: str, subscription: str) -> str:
    """Name a subscription whose messages the broker shares out among a group (MQTT 5, 4.8.2; mosquitto: 3.1.1 too)."""
    return f"$share/{group}/{subscription}"


def parse(name: str) -> Address | None:
    """Read a topic name; None if it is not one of ours."""
    prefix = ROOT + "/"
    if not name.startswith(prefix):
        return None
    probe_id, slash, leaf = name[len(prefix) :].partition("/")
    return Address(probe_id, leaf) if probe_id and slash and leaf else None
