"""Payloads of the lease conversation as released versions wrote them: they stay readable, and mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from wire.codec import decode, decode_lease_reply, encode
from wire.leases import Granted, GroupWord, LeaseRequest
from wire.status import ResponderStatus

GOLDEN = Path(__file__).parents[1] / "golden" / "leases"
RELEASE = "v0.1.0-"


def payload(name: str) -> bytes:
    return (GOLDEN / f"{RELEASE}{name}.json").read_bytes().strip()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_payloads_of_released_versions_stay_readable(path: Path) -> None:
    raw = path.read_bytes().strip()
    kinds: dict[str, type[msgspec.Struct]] = {
        "request": LeaseRequest,
        "responder": ResponderStatus,
        "group": GroupWord,
    }
    kind = kinds.get(path.stem.split("-")[1])
    assert encode(decode(raw, kind) if kind is not None else decode_lease_reply(raw)) == raw


def test_what_the_first_probes_did_not_say_has_a_meaning() -> None:
    bare = decode(payload("request-bare"), LeaseRequest)
    assert (bare.transfers, bare.window_s, bare.expected_mbps, bare.cell, bare.responder) == (2, 0.0, None, None, None)
    granted = decode_lease_reply(payload("granted-bare"))
    assert isinstance(granted, Granted)
    assert (granted.starts_in_s, granted.user, granted.public_key, granted.irtt_port) == (0.0, "", "", None)


def test_every_field_of_a_lease_stands_in_a_golden_payload() -> None:
    """A field that is added is added there too, or nobody would notice that it had become unreadable."""
    pairs: list[tuple[str, type[msgspec.Struct]]] = [
        ("request", LeaseRequest),
        ("granted", Granted),
        ("responder", ResponderStatus),
        ("group-word", GroupWord),
    ]
    for name, kind in pairs:
        written: dict[str, Any] = msgspec.json.decode(payload(name))
        missing = set(kind.__struct_fields__) - set(written) - {"online"}  # true, and so left out
        assert not missing, f"{name}: {missing}"
