"""What our programs read their configuration with, fuzzed: whatever a file says, it is settings or a refusal in words.

Begins with the examples of config/, and with what they leave out, and spoils them at every place.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

import agent.settings
import collector.fleet
import collector.settings
import lab.modem.scenario
import responder.settings
from base.configfile import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Load = Callable[[Path], object]
    Where = tuple[str | int, ...]

CONFIG: Final = Path(__file__).parents[2] / "config"
SEED: Final = 20260701
SPOILED: Final = 250
"""About so many documents are made of each: every place has its turn, in a small document more than one."""
TEXTS_EACH: Final = 40

ODD: Final = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(10**400), 1e308, 1e-320, 0.5),
    *(float("nan"), float("inf"), -float("inf")),
    *("", " ", "x", "é", "a b", "../..", "*", "x" * 5000, "a\nb", "a\x1b[31mb", "\x00", "\ud7ff", "0", "null"),
    *("2026-13-40", "08:99", "25:00", "[", "(?P<number>", "Asia/Nowhere", "127.0.0.1", "999.1.1.1", "::1", "-1"),
    *({"a": {}}, {"kind": {}}, {"name": []}, {1: 2}, {None: None}, {"": 0}, {"a\nb": 1}, {"x" * 2000: 1}),
    *([], [[]], [{}], [None], ["x", "x"], [1.5], [{"name": "viettel"}] * 2, [[[[[[]]]]]], list(range(300))),
)

MORE: Final = {
    "agent": """
links:
  - {name: mobi, interface: wwan2, usb_path: 1-1.2, apn: v, pin_file: /p, resolvers: [192.0.2.1], routes: leave,
     namespace: n, share: {place: 0, of: 4, room: 2}, bring_up: {data: ppp, wait_s: 60},
     recovery: {rungs: [1, 2]}, plan: {quota_day_mb: 900, time_zone: Asia/Ho_Chi_Minh, reset_at: "06:00", reset_day: 5,
     balance: {ussd: "*102#", pattern: "(?P<number>[0-9]+)(?P<unit>MB)", every_h: 24}}}
  - {name: vina, interface: wwan1, gateway: 10.0.0.1, plan: {quota_month_mb: 60000, balance: {sms: {number: "888",
     text: DATA}}}}
jobs:
  - {name: t, measurement: throughput, every_s: 3600}
  - {name: l, measurement: latency, every_s: 900, host: 192.0.2.9, options: {}}
  - {name: p, measurement: ping, every_s: 900, host: 192.0.2.9, options: {}}
  - {name: d, measurement: dns, every_s: 900, options: {names: [example.vn]}}
  - {name: w, measurement: web, every_s: 3600, options: {urls: ["https://example.vn/"]}}
  - {name: c, measurement: capacity, options: {}}
  - {name: r, measurement: radio, every_s: 60, thin: {}}
data_dir: /d
spool: {max_mb: 10, telemetry_every_s: 60, memory_dir: /m}
archive: {days: 3, max_mb: 5}
clock: {require: synchronised, hold_h: 2}
servers: [{host: 192.0.2.1, port: 5201}]
trace: {}
responders: [r1]
""",
    "collector": """
sink: {kind: influxdb2, url: "https://x", org: o, bucket: b, token_file: /t, ca_file: /c, timeout_s: 3}
resend: {ask: true, after_s: 1, again_s: 60}
share: s
serves: {sites_file: /s, groups: [g]}
limits: {results_per_minute: 100, kilobytes_per_minute: 300}
""",
    "responder": """
bind_address: 192.0.2.1
group: g
max_mbps: 100
""",
    "sites": """
sites: [{id: a, group: g, probes: [p, q]}, {id: b, probes: []}]
""",
    "scenario": """
events: [{at_s: 0.0, fault: {kind: silence}}, {at_s: 1, clear: silence}, {at_s: 2, do: unplug}, {at_s: 3,
  cell: {mcc: "452", mnc: "04", long_name: V, short_name: V, tac: 1, cell_id: 2, pci: 3, band: 3, earfcn: 1300}}]
repeat_s: 60
""",
}
LOADERS: Final[dict[str, Load]] = {
    "agent": agent.settings.load,
    "collector": collector.settings.load,
    "responder": responder.settings.load,
    "sites": collector.fleet.load,
    "scenario": lab.modem.scenario.load_scenario,
}


def documents(name: str) -> list[dict[str, Any]]:
    """Read the example, if there is one, with what it leaves out."""
    example = CONFIG / f"{name}.yaml"
    found = yaml.safe_load(example.read_text()) if example.exists() else {}
    more = yaml.safe_load(MORE[name])
    both = found | {
        key: found.get(key, []) + value if isinstance(value, list) else value for key, value in more.items()
    }
    return [both, found] if name == "collector" else [both]  # whose `sink` is another one


def places(tree: object, here: Where = ()) -> Iterator[Where]:
    """Walk through all keys and all places of lists."""
    yield here
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*here, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from places(value, (*here, index))


def with_value(tree: Any, where: Where, value: object) -> Any:  # noqa: ANN401  # any document
    """Put something else there."""
    if not where:
        return value
    tree = copy.deepcopy(tree)
    inner = tree
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    return tree


def without(tree: Any, where: Where) -> Any:  # noqa: ANN401  # any document
    """Leave one key or one place of a list out."""
    tree = copy.deepcopy(tree)
    inner = tree
    for key in where[:-1]:
        inner = inner[key]
    del inner[where[-1]]
    return tree


def nested_deeper(tree: Any, where: Where) -> Any:  # noqa: ANN401  # any document
    """Put what stands there one level further down."""
    inner = tree
    for key in where:
        inner = inner[key]
    return with_value(tree, where, {where[-1]: inner} if where else [inner])


def spoiled_trees(tree: dict[str, Any], chance: random.Random) -> Iterator[str]:
    """Spoil a document at every place: by a mapping, which no set takes and nothing has for a key, and by chance."""
    everywhere = [*places(tree)]
    for where in everywhere:
        yield written(with_value(tree, where, {}))
        for _ in range(-(-SPOILED // len(everywhere)) - 1):
            match chance.randrange(5):
                case 0 if where:
                    yield written(without(tree, where))
                case 1:
                    yield written(nested_deeper(tree, where))
                case _:
                    yield written(with_value(tree, where, chance.choice(ODD)))


def spoiled_texts(text: str, chance: random.Random) -> Iterator[str]:
    """Spoil a file as an editor would: a line twice, a line lost, a line moved in, odd characters, an end too early."""
    lines = text.splitlines(keepends=True)
    for _ in range(TEXTS_EACH):
        at = chance.randrange(len(lines))
        place = chance.randrange(len(text))
        before, after = "".join(lines[:at]), "".join(lines[at + 1 :])
        odd = chance.choice(
            ["\x00", "\x1b", "\t", "\u2028", "\ufeff", "&a *a ", "!!set ", "<<: ", "? ", "- ", "{", "'"]
        )
        yield chance.choice(
            [
                before + lines[at] + lines[at] + after,
                before + after,
                before + "  " + lines[at] + after,
                text[:place] + odd + text[place:],
                text[:place],
            ]
        )


def written(tree: object) -> str:
    return yaml.dump(tree, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True)


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_fuzzed_is_loaded_before_it_is_spoiled(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    for document in documents(name):
        path.write_text(written(document))
        assert LOADERS[name](path)


@pytest.mark.parametrize("name", LOADERS)
def test_whatever_a_configuration_says_is_taken_or_refused_in_words(name: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    path = tmp_path / f"{name}.yaml"
    refusals = []
    for document in documents(name):
        for text in (*spoiled_trees(document, chance), *spoiled_texts(written(document), chance)):
            path.write_text(text)
            try:
                LOADERS[name](path)
            except ConfigError as error:
                refusals.append(error.mistakes)
    assert len(refusals) > TEXTS_EACH
    assert all(refusals)
    assert [one for refusal in refusals for one in refusal if not (one.startswith(":") and one.isprintable())] == []
