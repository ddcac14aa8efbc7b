"""Replies have the form of recorded ones: as many fields, and of the same kinds.

`recorded.jsonl` holds what real modems said (public logs, test suites and manuals; each line names its source).
"""

# ruff: noqa: ANN001  # fixtures are typed where they are made: conftest.py

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lab.modem import cell_of

RECORDED = {
    record["id"]: record
    for record in map(json.loads, Path(__file__).with_name("recorded.jsonl").read_text("utf-8").splitlines())
}


def fields(line: str) -> list[str]:
    """Split at commas outside quotes; the prefix stays with nothing."""
    prefix, _, rest = line.partition(":")
    return [prefix, *re.findall(r'"[^"]*"|[^,]+|(?<=,)(?=,)|(?<=,)$', rest.strip())]


def kind(field: str) -> str:
    """Name what the field is; quotes round digits alone differ between firmwares."""
    bare = field.strip('"')
    kinds = {
        "nothing": r"",
        "number": r"-?\d+",
        "decimal": r"-?\d+\.\d+",
        "prefixed hexadecimal": r"0x[0-9A-F]+",
        "plmn with a dash": r"\d{3}-\d{2,3}",
    }
    for name, pattern in kinds.items():
        if re.fullmatch(pattern, bare):
            return name
    quoted = "quoted " if field.startswith('"') else ""
    hexadecimal = re.fullmatch("[0-9A-F]+", bare) and re.search("[0-9]", bare)
    return quoted + ("hexadecimal" if hexadecimal else "text")


def form(line: str) -> list[str]:
    first, *rest = fields(line)
    return [first, *map(kind, rest)]


def alike(ours: str, theirs: str) -> bool:
    """Compare forms; a hexadecimal number may happen to have digits only, in either."""
    one, other = form(ours), form(theirs)
    numbers = {"number", "hexadecimal", "quoted hexadecimal"}
    return len(one) == len(other) and all(
        a == b or (a in numbers and b in numbers and "number" in {a, b}) for a, b in zip(one, other, strict=True)
    )


def information(reply: list[str]) -> list[str]:
    return [line for line in reply if line and not line.startswith("AT") and line != "OK"]


@pytest.mark.parametrize(
    ("record", "dialect"),
    [
        ("S046", "quectel-ec25"),  # +QENG LTE
        ("S053", "quectel-ec25"),  # +QENG LTE, another modem
        ("S054", "quectel-ec25"),  # +QCAINFO
        ("S055", "quectel-ec25"),  # +QNWINFO
        ("S057", "quectel-ec25"),  # +QCSQ
        ("S060", "simcom-sim7600"),  # +CPSI LTE
        ("S021", "simcom-sim7600"),  # +CESQ
        ("S016", "simcom-sim7600"),  # +CSQ
        ("S024", "huawei-me909"),  # ^HCSQ
        ("S029", "huawei-me909"),  # ^SYSINFOEX
        ("S081", "simcom-sim7600"),  # ATI
    ],
)
def test_a_registered_modem_answers_in_the_recorded_form(record: str, dialect: str, plug_in, call) -> None:
    recorded = RECORDED[record]
    ours = information(call(plug_in(dialect)).lines(recorded["command"]))
    theirs = information(recorded["reply"])
    theirs = theirs[-1:] if recorded["command"] == "AT+CSQ" else theirs
    if recorded["command"] == "ATI":
        assert [line.partition(":")[0] for line in ours] == [line.partition(":")[0] for line in theirs]
        return
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert alike(our, their), (form(our), form(their))


def test_operator_registration_and_pin_answer_in_the_recorded_form(plug_in, call) -> None:
    simcom = call(plug_in("simcom-sim7600"))
    assert simcom.final("AT+COPS=3,2;+CREG=2") == "OK"
    assert alike(simcom.lines("AT+COPS?")[0], RECORDED["S042"]["reply"][0])
    assert alike(
        simcom.lines("AT+CREG?")[0].rpartition(",")[0], RECORDED["S011"]["reply"][1]
    )  # without the newer <AcT>
    assert alike(simcom.lines("AT+CPIN?")[0], RECORDED["S032"]["reply"][1])


@pytest.mark.parametrize(
    ("record", "dialect", "fault"),
    [
        ("S048", "quectel-ec25", "no-service"),  # +QENG
        ("S056", "quectel-ec25", "no-service"),  # +QNWINFO
        ("S059", "quectel-ec25", "no-service"),  # +QCSQ
        ("S041", "quectel-ec25", "no-service"),  # +COPS
        ("S062", "simcom-sim7600", "no-service"),  # +CPSI
        ("S017", "simcom-sim7600", "no-service"),  # +CSQ
        ("S026", "huawei-me909", "no-service"),  # ^HCSQ
        ("S006", "huawei-me909", "denied"),  # +CEREG
        ("S032", "simcom-sim7600", "sim-pin"),  # +CPIN
        ("S031", "huawei-me909", "sim-pin"),  # ^CPIN
    ],
)
def test_a_modem_in_trouble_says_the_recorded_words(record: str, dialect: str, fault: str, plug_in, call) -> None:
    modem = plug_in(dialect)
    modem.fault(fault)
    caller = call(modem)
    recorded = RECORDED[record]
    caller.final("AT+CREG=0;+CEREG=1")
    theirs = information(recorded["reply"])
    assert theirs[0] in caller.lines(recorded["command"])


@pytest.mark.parametrize(("record", "dialect"), [("S049", "quectel-ec25"), ("S061", "simcom-sim7600")])
def test_a_umts_cell_is_told_in_the_recorded_form(record: str, dialect: str, plug_in, call) -> None:
    umts = cell_of("vietnamobile", technology="umts", band=1, earfcn=10763, bandwidth_mhz=5.0)
    recorded = RECORDED[record]
    ours = call(plug_in(dialect, cell=umts)).lines(recorded["command"])[0]
    theirs = information(recorded["reply"])[0].replace("LIMSRV", "NOCONN")
    assert alike(ours, theirs), (form(ours), form(theirs))


def test_a_context_is_listed_with_an_address_and_flags(plug_in, call) -> None:
    """Newer firmware appends fields (TS 27.007 section 10.1.1 allows it), so the recorded ones come first."""
    ours = fields(call(plug_in()).lines("AT+CGDCONT?")[0])
    theirs = fields(RECORDED["S089"]["reply"][0])
    assert [kind(field) for field in ours[1:3]] == [kind(field) for field in theirs[1:3]]
    assert len(ours) >= len(theirs)


def test_a_dialled_number_without_a_network_ends_as_recorded(plug_in, call) -> None:
    modem = plug_in("simcom-sim7600")
    assert call(modem).lines("ATD1234567890;") == [RECORDED["S086"]["reply"][-1]]
