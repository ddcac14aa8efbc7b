"""collector.yaml as frozen structs. `load()` names every mistake at once; nothing here opens a connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from base import configfile
from base.broker import BrokerSettings
from wire.form import Name

DEFAULT_CONFIG: Final = Path("/etc/probefleet/collector.yaml")
DEFAULT_SITES: Final = Path("/etc/probefleet/sites.yaml")

Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[^/@\s]+(/[^\s]*)?\Z")]
"""No `user:password@` in it: an address is logged, and credentials have a file."""
Text = Annotated[str, msgspec.Meta(min_length=1)]

_NEEDED: Final = {"influxdb1": ("url", "database"), "influxdb2": ("url", "bucket", "token_file"), "none": ()}
_ALLOWED: Final = {
    "influxdb1": {"url", "database", "credentials_file", "ca_file", "timeout_s"},
    "influxdb2": {"url", "org", "bucket", "token_file", "ca_file", "timeout_s"},
    "none": set[str](),
}


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `journal:` section. What cannot be accepted is kept up to `quarantine_max_mb`; beyond that it is counted."""

    path: Path
    quarantine_max_mb: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `sink:` section: where points go. `none` keeps the journal alone; 3.x is spoken to as 2.x."""

    kind: Literal["influxdb1", "influxdb2", "none"]
    url: Url | None = None
    database: Text | None = None
    org: Text | None = None
    bucket: Text | None = None
    credentials_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 20.0


class ServesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `serves:` section: only the probes of these groups of the site list; other collectors serve the others."""

    sites_file: Path
    groups: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `limits:` section: what one probe may bring. What is over it is not taken now; the probe sends it again."""

    results_per_minute: Annotated[int, msgspec.Meta(ge=60, le=10_000_000)] = 6000
    kilobytes_per_minute: Annotated[int, msgspec.Meta(ge=256, le=10_000_000)] = 6000


class ResendSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `resend:` section: whether and when probes are asked for results that never came.

    A hole that stays for `after_s` is asked for; a spool that still has holes, again after `again_s`. Where collectors
    share the work (`share`), each lacks what the others have, and none asks but by hand.
    """

    ask: bool = True
    after_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 900
    again_s: Annotated[int, msgspec.Meta(ge=60, le=604_800)] = 21_600


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of collector.yaml. `client_id` names the collector's session at the broker: one collector, one name.

    Collectors with the same `share` take turns: the broker gives each message to one of them.
    """

    broker: BrokerSettings
    journal: JournalSettings
    sink: SinkSettings
    resend: ResendSettings = ResendSettings()
    client_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")] = "probefleet-collector"
    share: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")] | None = None
    serves: ServesSettings | None = None
    limits: LimitSettings = LimitSettings()


def load(path: Path) -> Settings:
    """Read collector.yaml; raise base.configfile.ConfigError naming every mistake."""
    return configfile.load(path, Settings, _cross_check)


def _cross_check(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find what one key of the sink says about another."""
    sink = document.get("sink")
    if not isinstance(sink, Mapping):
        return
    kind = sink.get("kind")
    if not isinstance(kind, str) or kind not in _NEEDED:
        return
    for key in _NEEDED[kind]:
        if sink.get(key) is None:
            yield f"sink.{key}", f"missing; kind '{kind}' needs it"
    for key in sink:
        if key != "kind" and key in SinkSettings.__struct_fields__ and key not in _ALLOWED[kind]:
            yield f"sink.{key}", f"kind '{kind}' has no use for it; remove it"
