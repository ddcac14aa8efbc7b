"""Vendor parsers: nothing a modem says makes them fail; sentinels are None; identities do not stay."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.modem import read_reply, to_radio
from agent.modem.reading import Fields, ModemReading, without_identity
from agent.modem.vendors import FAMILIES, family_of
from agent.modem.vendors.minor import PARSERS as MINOR
from wire.radio import RadioReading, Registration, Technology

_NAMES = sorted({*(name for family in FAMILIES.values() for name in family.parsers), *MINOR, "URC"})
_PARTS = st.sampled_from(
    [
        *("LTE", "servingcell", "NR5G-NSA", "4G", "SEARCH", "LTE BAND 3", "460-11", "452", "04", "2", "1,1"),
        *("-", "--", "", "0", "-0", "99", "255", "65535", "FFFF", "0x", "0XFFFE", "-32768", '"', "(", ")", "²", "٣"),
        *("System mode: LTE", "Serving: EARFCN MCC", "RSRP:-90"),
    ]
)


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(_NAMES),
    st.lists(st.lists(_PARTS | st.text(max_size=8), max_size=24), max_size=5),
)
def test_no_reply_makes_a_parser_fail(vendor: str, name: str, rows: list[list[str]]) -> None:
    command = name if name == "URC" else f"AT{name}?"
    lines = [f"{name}: {','.join(row)}" for row in rows] + [" ".join(row) for row in rows] + ["OK"]
    reading = read_reply(vendor, None, command, lines)
    for level in (reading.rsrp_dbm, reading.nr_rsrp_dbm, reading.rssi_dbm):
        assert level is None or level < 0


_RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "transcripts" / "replies.jsonl").read_text(encoding="utf-8").splitlines()
]


@given(st.sampled_from(_RECORDED), st.data())
def test_a_damaged_reply_is_read_or_left(record: dict[str, Any], data: st.DataObject) -> None:
    text = "\r\n".join(record["reply"])
    start, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    damaged = text[:start] + data.draw(st.text(max_size=3)) + text[end:]
    read_reply(record["vendor"], record["model"], record["command"], damaged.split("\n"))


def test_fields_and_reading_have_the_same_names() -> None:
    fields = set(Fields.__annotations__)
    assert fields - {"notes"} <= set(ModemReading.__struct_fields__)
    assert set(RadioReading.__struct_fields__) <= fields


@pytest.mark.parametrize(
    ("vendor", "command", "line"),
    [
        ("quectel", "AT+QCSQ", '+QCSQ: "NOSERVICE"'),
        ("quectel", 'AT+QENG="servingcell"', '+QENG: "servingcell","SEARCH"'),
        ("simcom", "AT+CPSI?", "+CPSI: NO SERVICE,Online"),
        ("generic", "AT+CESQ", "+CESQ: 99,99,255,255,255,255"),
        ("telit", "AT#SERVINFO", '#SERVINFO: 65535,-0,"","",65535,00DE,64,3,-255,"II",FF'),
        ("zte", "AT+ZRSSI", "+ZRSSI: 0"),
        ("sierra", "AT!LTEINFO?", "!LTEINFO:"),
    ],
)
def test_no_value_is_none_and_never_zero(vendor: str, command: str, line: str) -> None:
    reading = read_reply(vendor, None, command, [line, "OK"])
    for name in ("rsrp_dbm", "rsrq_db", "sinr_db", "rssi_dbm", "cell_id", "tac", "pci", "band", "earfcn"):
        assert getattr(reading, name) is None, name


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("861234567890123", "861234567890123"),
        ("IMEI: 861234567890123", "861234567890123"),
        ("+QCCID: 8984020000123456789F", "8984020000123456789F"),
        ('#RFSTS: "452 04",1275,-90,-60,-9,D6E7,,0,19,1,844D92A,"452041234567890","Viettel",3,3', "452041234567890"),
        ('+CNUM: ,"+84912345678",145', "84912345678"),
        ('+CLIP: "0912345678",129', "0912345678"),
        ("ESN: 0x80ABCDEF", "80ABCDEF"),
    ],
)
def test_an_identity_does_not_stay(line: str, secret: str) -> None:
    assert secret not in without_identity(line)
    assert secret not in repr(read_reply("generic", None, "ATI", [line, "OK"]).raw)


@pytest.mark.parametrize(
    ("hint", "key"),
    [
        ("Quectel", "quectel"),
        ("SIMCOM INCORPORATED", "simcom"),
        ("huawei", "huawei"),
        ("Telit", "telit"),
        ("Sierra Wireless, Incorporated", "sierra"),
        ("ZTE INCORPORATED", "zte"),
        ("u-blox", "ublox"),
        ("Cinterion", "cinterion"),
        ("Fibocom Wireless Inc.", "fibocom"),
        ("Novatel Wireless", "generic"),
        (None, "generic"),
    ],
)
def test_a_maker_is_known_by_what_it_calls_itself(hint: str | None, key: str) -> None:
    assert family_of(hint).key == key


def _read(*replies: tuple[str, str]) -> RadioReading:
    return to_radio(read_reply("quectel", "EC25", command, [line, "OK"]) for command, line in replies)


def test_replies_are_merged_by_the_profile() -> None:
    radio = _read(
        (
            'AT+QENG="servingcell"',
            '+QENG: "servingcell","NOCONN","LTE","FDD",452,04,844D92A,248,1275,3,5,5,D6E7,-89,-8,-61,17,38',
        ),
        ("AT+QCSQ", '+QCSQ: "LTE",-60,-88,180,-7'),
        ("AT+CEREG?", '+CEREG: 2,5,"D6E7","844D92A",7'),
        ("AT+COPS?", '+COPS: 0,0,"Viettel",7'),
    )
    assert (radio.rsrp_dbm, radio.sinr_db) == (-89, 16.0)  # SINR of QCSQ is preferred, the rest of QENG
    assert (radio.registration, radio.operator, radio.mcc) == (Registration.ROAMING, "Viettel", "452")


def test_one_registered_domain_is_a_registration() -> None:
    assert _read(("AT+CEREG?", "+CEREG: 0,4"), ("AT+CREG?", "+CREG: 0,1")).registration is Registration.HOME
    assert _read(("AT+CEREG?", "+CEREG: 0,2"), ("AT+CREG?", "+CREG: 0,3")).registration is Registration.DENIED


def test_a_band_that_nobody_named_comes_from_the_earfcn() -> None:
    line = '#SERVINFO: 6400,-43,"T-Mobile A","23203",00000AF,36EE,32,3,-60'
    radio = to_radio([read_reply("telit", None, "AT#SERVINFO", [line, "OK"])])
    assert (radio.technology, radio.band) == (Technology.LTE, 20)


def test_five_g_beside_lte_is_non_standalone() -> None:
    radio = _read(
        ("AT+QNWINFO", '+QNWINFO: "FDD LTE",45204,"LTE BAND 3",1275'),
        ("AT+QENG", '+QENG: "NR5G-NSA",452,04,920,-96,18,-10,648768,78,10,1'),
    )
    assert (radio.technology, radio.nr_rsrp_dbm, radio.nr_sinr_db, radio.nr_rsrq_db) == (
        Technology.NR5G_NSA,
        -96,
        18,
        -10,
    )


def test_every_profile_asks_only_reading_commands() -> None:
    for family in FAMILIES.values():
        for poll in family.profile.polls:
            assert re.fullmatch(r'AT[+^#!][A-Z0-9]+(\?|="servingcell")?', poll.command), poll.command
