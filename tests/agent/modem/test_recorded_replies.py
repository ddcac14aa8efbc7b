"""Every recorded reply through the real parsers: whole, byte by byte, in random slices, with notices in between."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from agent.modem import read_reply
from agent.modem.at import Answer, Dialogue, Notice, is_final, is_registration_notice, names_of
from agent.modem.commands import printed
from agent.modem.vendors import read_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.modem.reading import ModemReading

NOTICES = (
    "RING",
    '+CMTI: "SM",3',
    '+QIURC: "recv",0,4',
    "^DSFLOWRPT:0,0,0,0,0,0,0",
    "+CIEV: 2,4",
    '+CGREG: 5,"5585","404C78A",6',
)


def _whole(record: dict[str, Any]) -> ModemReading:
    return read_reply(record["vendor"], record["model"], record["command"], record["reply"])


def _live(record: dict[str, Any], lines: list[str], slices: Callable[[bytes], list[bytes]]) -> ModemReading:
    """Let the reply arrive on a live dialogue."""
    dialogue = Dialogue()
    asked = record["command"] != "URC"
    if asked:
        dialogue.begin(record["command"])
    events = [event for piece in slices("\r\n".join(["", *lines, ""]).encode()) for event in dialogue.feed(piece)]
    if not asked:
        said = [event.line for event in events if isinstance(event, Notice)]
        return read_reply(record["vendor"], record["model"], "URC", said)
    answers = [event for event in events if isinstance(event, Answer)]
    answer = answers[0] if answers else dialogue.give_up()
    return read_answer(record["vendor"], record["model"], answer)


def _with_notices(record: dict[str, Any], chance: random.Random) -> list[str]:
    """Put notices between the lines; one of the same prefix only where a solicited answer stands beside it."""
    names = names_of(record["command"])
    lines = record["reply"]
    usable = [notice for notice in NOTICES if notice.split(":")[0] not in names]
    if names and names[0].endswith("REG") and any(f"{names[0]}:" in x and not is_registration_notice(x) for x in lines):
        usable += [f'{names[0]}: 5,"5585","404C78A",6', f"{names[0]}: 2"] * 3
    woven: list[str] = []
    for line in lines:
        if record["command"] != "URC" and not any(is_final(done.strip()) for done in woven):
            woven += chance.sample(usable, k=min(2, len(usable)))
        woven.append(line)
    return woven


def _one(data: bytes) -> list[bytes]:
    return [data]


def _bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def _random(data: bytes) -> list[bytes]:
    chance = random.Random(len(data))
    cuts = sorted(chance.sample(range(len(data) + 1), k=min(12, len(data))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


WAYS: dict[str, Callable[[dict[str, Any]], ModemReading]] = {
    "recorded lines": _whole,
    "in one piece": lambda record: _live(record, record["reply"], _one),
    "byte by byte": lambda record: _live(record, record["reply"], _bytes),
    "in random slices": lambda record: _live(record, record["reply"], _random),
    "notices between": lambda record: _live(record, _with_notices(record, random.Random(record["id"])), _random),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_real_modems_said_is_read_right(records: list[dict[str, Any]], way: str) -> None:
    misses, total = [], 0
    for record in records:
        said = printed(WAYS[way](record))
        for field, wanted in record["expect"].items():
            total += 1
            if said.get(field) != wanted:
                misses.append((record["id"], record["vendor"], record["command"], field, wanted, said.get(field)))
    for miss in misses:
        print("{:<5} {:<10} {:<22} {:<18} wanted {!s:<16} got {!s}".format(*miss))  # noqa: T201 - pytest shows it when the test fails
    assert total > 50
    assert not misses, f"{len(misses)} of {total} fields are wrong, see the table above"


def test_no_reading_holds_a_value_that_no_radio_can_have(records: list[dict[str, Any]]) -> None:
    for record in records:
        reading = _whole(record)
        for name in ("rsrp_dbm", "nr_rsrp_dbm", "rssi_dbm"):
            value = getattr(reading, name)
            assert value is None or value < 0, (record["id"], name, value)


def test_a_reading_prints_as_json_and_hides_what_the_reply_does_not_say() -> None:
    reading = read_reply("generic", None, "AT+CSQ", ["+CSQ: 99,99", "OK"])
    assert json.loads(json.dumps(printed(reading))) == {
        "rssi_dbm": None,
        "ber_index": None,
        "error": None,
        "raw": ["+CSQ: 99,99"],
    }
