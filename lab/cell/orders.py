"""What a Cell tells its relay, and what the relay answers: one JSON datagram each, on a socket pair.

Pure: structs and their encoding. An order that does not decode is answered by `Refused`, never by silence.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

MOST_BYTES: Final = 8192  # of one order or answer

Direction = Literal["down", "up"]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=60)]


class Impair(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="impair"):
    """Treat every packet of one direction so from now on."""

    direction: Direction
    delay_s: _Seconds
    jitter_s: _Seconds
    loss_percent: Annotated[float, msgspec.Meta(ge=0, le=100)]


class Silence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="silence"):
    """Lose every packet, both ways, for so long; 0 ends a silence early."""

    for_s: Annotated[float, msgspec.Meta(ge=0, le=86400)]


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="replay"):
    """Drain one direction by the trace in this file from now on; no file: no longer."""

    direction: Direction
    path: str | None
    scale: float = 1.0
    queue_bytes: Annotated[int, msgspec.Meta(ge=1500)] = 1_000_000


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="report"):
    """Change nothing; only answer with the counters."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Packets of one direction since the relay began; `lost` by loss or silence, `overflowed` for want of room."""

    packets: int = 0
    bytes: int = 0
    lost: int = 0
    overflowed: int = 0


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The order is in force; and how the relay stands."""

    down: Traffic
    up: Traffic
    cpu_s: float


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The order is not in force; why."""

    why: str


Order = Impair | Silence | Replay | Report
Answer = Done | Refused

_encoder: Final = msgspec.json.Encoder()
_orders: Final = msgspec.json.Decoder(Order)
_answers: Final = msgspec.json.Decoder(Answer)

encode = _encoder.encode
decode_order = _orders.decode
decode_answer = _answers.decode
