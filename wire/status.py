"""The retained words: who is there, and how it stands."""

from __future__ import annotations

from typing import Annotated

import msgspec

from wire.form import Message, Name, Utc
from wire.results import Clock


class LinkStatus(Message, frozen=True, kw_only=True):
    """One link as the agent last saw it."""

    name: Name
    interface: str
    operator: str | None = None
    technology: str | None = None
    rsrp_dbm: float | None = None
    last_outcome: str | None = None


class Status(Message, frozen=True, kw_only=True):
    """Retained birth message and last will: what is known of a probe without asking it.

    `machine` is what a technician finds the box by: host name, serial or hardware address, address towards the broker.
    """

    probe_id: Name
    online: bool
    site: Name | None = None
    at: Utc | None = None
    started_at: Utc | None = None
    agent_version: str = ""
    spool_id: str = ""
    spooled: int = 0
    backlog: int = 0
    undated: int = 0
    """How many of the backlog wait for the clock to be set."""
    spool_error: str | None = None
    clock: Clock = Clock()
    links: tuple[LinkStatus, ...] = ()
    machine: Annotated[str, msgspec.Meta(max_length=200)] = ""


class ResponderStatus(Message, frozen=True, kw_only=True):
    """Retained: what a responder does now, and what it has counted since it was started."""

    responder: Name
    at: Utc | None = None
    online: bool = True
    ports: int = 0
    link_mbps: float = 0.0
    lent_mbps: float = 0.0
    testing: int = 0
    waiting: int = 0
    turned_away: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    group: Name | None = None
