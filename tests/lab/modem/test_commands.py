"""The command line of V.250, without a port."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.modem.commands import LONGEST_LINE, CommandLine, framed, parse, split_values


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_lines_are_the_same_however_the_bytes_are_sliced(data: bytes, cuts: list[int]) -> None:
    whole = list(CommandLine().feed(data))
    sliced, edges = CommandLine(), [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    assert [line for piece in pieces for line in sliced.feed(piece)] == whole


@given(st.text(max_size=200))
def test_parsing_refuses_with_a_value_error_or_not_at_all(line: str) -> None:
    try:
        requests = parse(line)
    except ValueError:
        return
    assert all(request.name for request in requests)


@pytest.mark.parametrize(
    ("line", "forms"),
    [
        ("", []),
        ("E0V1+CMEE=1;+CREG?", ["E", "V", "+CMEE=", "+CREG?"]),
        ("&F", ["&F"]),
        ("&C1&D2", ["&C", "&D"]),
        ("S0=0", ["S0"]),
        ("+COPS=?", ["+COPS=?"]),
        ('+CGDCONT=1,"IP","a;b";+CSQ', ["+CGDCONT=", "+CSQ"]),
        ("D*99***1#", ["D"]),
        ("^HCSQ?", ["^HCSQ?"]),
        ("+csq ; +csq", ["+CSQ", "+CSQ"]),
    ],
)
def test_a_line_is_split_into_its_commands(line: str, forms: list[str]) -> None:
    assert [request.form for request in parse(line)] == forms


def test_values_keep_commas_inside_quotes() -> None:
    assert split_values('1,"IP","a,b",,7') == ["1", "IP", "a,b", "", "7"]
    assert split_values("") == []


def test_backspace_corrects_and_a_slash_repeats() -> None:
    line = CommandLine()
    assert list(line.feed(b"AT+CSW\bQ\rA/")) == ["+CSQ", "+CSQ"]


def test_noise_before_at_is_skipped_and_other_lines_are_ignored() -> None:
    line = CommandLine()
    assert list(line.feed(b"\xff~AT+CSQ\rhello\r\r\n")) == ["+CSQ"]


def test_an_endless_line_takes_bounded_memory() -> None:
    line = CommandLine()
    for _ in range(100):
        assert list(line.feed(b"x" * 1000)) == []
    assert len(line._buffer) <= LONGEST_LINE


def test_the_numeric_form_has_codes_for_results() -> None:
    assert framed([["+CSQ: 1,99"]], "OK", words=False) == b"+CSQ: 1,99\r\n0\r"
    assert framed([], "CONNECT 115200", words=False) == b"1\r"
    assert framed([], "+CME ERROR: 10", words=False) == b"+CME ERROR: 10\r\n"
