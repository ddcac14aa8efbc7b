from __future__ import annotations

from pathlib import Path

import pytest

from base.configfile import ConfigError
from collector import settings

ROOT = Path(__file__).parents[2]

MISTAKES = {
    "broker: {host: b}\njournal: {path: j}\nsink: {kind: influxdb1, url: 'http://x'}\n": [
        ":3: sink.database: missing; kind 'influxdb1' needs it"
    ],
    "broker: {host: b}\njournal: {path: j}\nsink: {kind: none, url: 'http://x'}\n": [
        ":3: sink.url: kind 'none' has no use for it; remove it"
    ],
    "broker: {host: b}\njournal: {path: j}\nsink: {kind: influxdb2, url: 'ftp://x', bucket: b}\n": [
        ":3: sink.token_file: missing; kind 'influxdb2' needs it",
    ],
    "broker: {hots: b}\njournal: {}\nsink: {kind: sqlite}\n": [
        ":1: broker.hots: unknown key; did you mean 'host'?",
        ":1: broker.host: missing, and it has no default",
        ":2: journal.path: missing, and it has no default",
    ],
    "broker: {host: b}\njournal: {path: j}\nsink: {kind: influxdb1, url: 'http://u:p@x', database: d}\n": [
        ":3: sink.url: expected `str` matching"
    ],
    "sink: 3\n": [": sink: expected"],
    'broker: {host: b}\njournal: {path: j}\nsink: {kind: none}\nclient_id: "c\\n"\nshare: "s\\n"\n': [
        ":4: client_id: expected `str` matching",
        ":5: share: expected `str` matching",
    ],
    "broker: {host: b}\njournal: {path: j}\nsink: {kind: {}}\n": [":3: sink.kind: expected `str`"],
    "broker: {host: b}\njournal: {path: j}\nsink: {kind: none}\nresend: {ask: maybe, again_s: 1}\n": [
        ":4: resend.ask: expected `bool`",
        ":4: resend.again_s: expected `int` >= 60",
    ],
}


def test_the_commented_example_is_usable() -> None:
    example = settings.load(ROOT / "config" / "collector.yaml")
    assert example.sink.kind == "influxdb1"
    assert example.sink.database == "probefleet"
    assert example.broker.tls is not None


@pytest.mark.parametrize("text", MISTAKES, ids=range(len(MISTAKES)))
def test_every_mistake_is_named_at_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "collector.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        settings.load(path)
    for mistake in MISTAKES[text]:
        assert mistake.removeprefix(":") in str(refusal.value)


def test_no_database_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "collector.yaml"
    path.write_text("broker: {host: b, tls: null}\njournal: {path: /j}\nsink: {kind: none}\n")
    assert settings.load(path).sink.url is None
