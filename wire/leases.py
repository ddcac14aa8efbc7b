"""How a probe borrows test servers of a responder, and how a group of responders shares out the cells."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from wire.form import Message, Name

ARRIVE_WITHIN_S: Final = 9.0
"""How long a lease's servers wait for their client, from its turn on and between its transfers; then they
are another's. With two looks a second that leaves time to free them within 10 s of a client's last word."""


class LeaseRequest(Message, frozen=True, kw_only=True):
    """A probe asks for single-use iperf3 servers: one per transfer, all for at most `length_s` seconds.

    With `transfers` 0 it asks only where the responder and its echo server are; that is never busy and lends nothing.
    `window_s`: how long it is willing to wait for its turn. `expected_mbps`: what the test will take of the server's
    link, from the last one. `operator` and `cell`: tests in one cell never run together. `responder`: the one that is
    asked; without it everyone who hears it answers.
    """

    request_id: str
    probe_id: Name
    link: Name
    transfers: Annotated[int, msgspec.Meta(ge=0, le=4)] = 2
    length_s: Annotated[float, msgspec.Meta(gt=0, le=600)]
    window_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    expected_mbps: Annotated[float, msgspec.Meta(gt=0, le=100_000)] | None = None
    operator: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    cell: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    responder: Name | None = None


class Granted(Message, frozen=True, kw_only=True, tag_field="answer", tag="granted"):
    """Servers listen on `ports`, one transfer each, from `starts_in_s` to `expires_in_s` from now on.

    Both are relative, so that no clocks are compared. Booked servers (`starts_in_s` over 0) may be ready sooner: the
    same request is then answered once more. They wait for their client for ARRIVE_WITHIN_S. Where `user` is given they
    ask for it, with `token` as its password, both encrypted with `public_key` (PEM): iperf3's own authentication.
    """

    request_id: str
    responder: str
    host: str
    ports: tuple[int, ...]
    token: str
    expires_in_s: float
    irtt_port: int | None = None
    starts_in_s: float = 0.0
    user: str = ""
    public_key: str = ""
    load_percent: float | None = None
    """How much of the responder's network is in use as it answers; above 70 a test measures the server."""


class Busy(Message, frozen=True, kw_only=True, tag_field="answer", tag="busy"):
    """Nothing is free within the request's window: ask again in `retry_in_s` seconds."""

    request_id: str
    responder: str
    retry_in_s: float


class Denied(Message, frozen=True, kw_only=True, tag_field="answer", tag="denied"):
    """The request breaks a limit and will be denied again: `reason` says which."""

    request_id: str
    responder: str
    reason: str


LeaseReply = Granted | Busy | Denied


class Claim(Message, frozen=True, kw_only=True):
    """A cell that is wanted or held for a link's test, from the sending on. With `ends_in_s` 0 it is given back."""

    id: Annotated[int, msgspec.Meta(ge=0)]
    link: Annotated[str, msgspec.Meta(max_length=200)] = ""
    cell: Annotated[str, msgspec.Meta(max_length=200)] = ""
    starts_in_s: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0
    ends_in_s: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0


class GroupWord(Message, frozen=True, kw_only=True):
    """What a responder tells its group: cells that it claims. The order in which the broker hands them on decides.

    `run` is drawn at each start of a responder: with a new one, all its earlier claims are void. `whole`: these are all
    its claims. `hello`: it has just come, and asks the others to say theirs.
    """

    responder: Name
    run: Annotated[str, msgspec.Meta(max_length=64)]
    claims: Annotated[tuple[Claim, ...], msgspec.Meta(max_length=2000)] = ()
    whole: bool = False
    hello: bool = False
