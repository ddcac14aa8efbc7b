"""What every message has in common: names, time stamps, and how a struct stands on the wire.

A field added after a release has a default; units stand in names. Unknown fields are tolerated when read, so that a
newer probe can talk to an older collector; the collector's journal keeps the bytes as they came.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62})\Z")]
"""A probe, site, link or job: lower-case letters, digits, dot, dash, underscore; safe in a topic and in a file name."""

Utc = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware time stamp; always UTC on the wire."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Common form: immutable, keywords only, defaults left out on the wire (cellular bytes cost money)."""
