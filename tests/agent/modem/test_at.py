"""The AT dialogue: finals, echo, notices, prompts, secrets, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.modem.at import MAX_LINE_BYTES, MAX_LINES, PROMPT, Answer, Dialogue, InFlight, Notice, masked, sort_lines


def _ask(command: str, reply: bytes, *, size: int = 1) -> tuple[Answer, list[str]]:
    dialogue = Dialogue()
    dialogue.begin(command)
    events = [event for i in range(0, len(reply), size) for event in dialogue.feed(reply[i : i + size])]
    answers = [event for event in events if isinstance(event, Answer)]
    notices = [event.line for event in events if isinstance(event, Notice)]
    return (answers[0] if answers else dialogue.give_up()), notices


@pytest.mark.parametrize("size", [1, 3, 4096])
@pytest.mark.parametrize(
    ("final", "error"),
    [
        ("OK", None),
        ("ERROR", "ERROR"),
        ("+CME ERROR: 10", "+CME ERROR: 10"),
        ("+CME ERROR: SIM not inserted", "+CME ERROR: SIM not inserted"),
        ("+CME ERROR: ", "+CME ERROR:"),
        ("+CMS ERROR: 456", "+CMS ERROR: 456"),
        ("MODEM ERROR: 4", "MODEM ERROR: 4"),
        ("COMMAND NOT SUPPORT", "COMMAND NOT SUPPORT"),
        ("NA", "NA"),
    ],
)
def test_every_final_ends_an_answer(final: str, error: str | None, size: int) -> None:
    answer, _ = _ask("AT+CSQ", f"AT+CSQ\r\r\n+CSQ: 20,99\r\n\r\n{final}\r\n".encode(), size=size)
    assert (answer.lines, answer.error, answer.ok) == (("+CSQ: 20,99",), error, error is None)


@pytest.mark.parametrize("final", ["NO CARRIER", "BUSY", "NO ANSWER", "NO DIALTONE"])
def test_a_call_result_ends_a_dialling_command_and_no_other(final: str) -> None:
    answer, _ = _ask("ATD*99***1#", f"\r\n{final}\r\n".encode())
    assert answer.error == final
    answer, notices = _ask("AT+CSQ", f"\r\n{final}\r\n+CSQ: 20,99\r\n\r\nOK\r\n".encode())
    assert (answer.lines, answer.error, notices) == (("+CSQ: 20,99",), None, [final])


def test_connect_ends_a_dialling_command_well() -> None:
    answer, _ = _ask("ATD*99***1#", b"\r\nCONNECT 150000000\r\n~\x7e")
    assert answer.ok
    assert answer.final == "CONNECT 150000000"


def test_a_line_that_only_begins_like_a_final_is_information() -> None:
    answer, _ = _ask("AT+CGMM", b"\r\nOKAY-2000\r\nERRORLESS\r\n\r\nOK\r\n")
    assert answer.lines == ("OKAY-2000", "ERRORLESS")


def test_the_prompt_ends_a_command_without_a_line_end() -> None:
    answer, _ = _ask("AT+CMGS=20", b"AT+CMGS=20\r\r\n> ")
    assert answer.final == PROMPT


@pytest.mark.parametrize(
    "echo", [b"AT+CSQ\r", b"at+csq\r\r\n", b"T+CSQ\r", b"AT+CSP\r\n", b"AT+CSQ", b"\x00\x00AT+CSQ\r", b""]
)
def test_an_echo_of_any_shape_is_taken_off(echo: bytes) -> None:
    answer, _ = _ask("AT+CSQ", echo + b"\r\n+CSQ: 20,99\r\n\r\nOK\r\n")
    assert answer.lines == ("+CSQ: 20,99",)


def test_an_answer_that_never_ends_gives_its_lines() -> None:
    answer, _ = _ask("AT+CPIN?", b"\r\n+CPIN: READY")
    assert (answer.lines, answer.final, answer.ok) == (("+CPIN: READY",), None, False)


def test_notices_before_inside_and_behind_an_answer_are_told_apart() -> None:
    reply = b'\r\nRING\r\n+CREG: 5\r\n+COPS: 0,0,"X",7\r\n^RSSI:20\r\n\r\nOK\r\n\r\n+CMTI: "ME",1\r\n'
    answer, notices = _ask("AT+COPS?", reply, size=4096)
    assert answer.lines == ('+COPS: 0,0,"X",7',)
    assert notices == ["RING", "+CREG: 5", "^RSSI:20", '+CMTI: "ME",1']


@pytest.mark.parametrize("notice", ['+CREG: 5,"5585","404C78A",6', "+CREG: 2", "+CREG: 1,8BE3,2BAF"])
def test_a_solicited_registration_is_told_from_a_notice_of_the_same_prefix(notice: str) -> None:
    solicited = '+CREG: 2,1,"5585","404C790",7'
    for reply in ([notice, solicited], [solicited, notice], [notice] * 10 + [solicited]):
        assert sort_lines("AT+CREG?", [*reply, "OK"]).lines == (solicited,)
    assert sort_lines("AT+CREG?", [notice, "OK"]).lines == (notice,)


def test_one_command_is_in_flight() -> None:
    dialogue = Dialogue()
    dialogue.begin("AT+CSQ")
    with pytest.raises(InFlight):
        dialogue.begin("AT+COPS?")
    dialogue.give_up()
    with pytest.raises(InFlight):
        dialogue.give_up()
    with pytest.raises(ValueError, match="one line"):
        dialogue.begin("AT+CSQ\rAT+CFUN=0")


@pytest.mark.parametrize(
    "command",
    ['AT+CPIN="4711"', "AT+CPIN=4711", 'AT+CLCK="SC",0,"4711"', 'AT+CGAUTH=1,1,"user","4711"', "AT^CPIN=4711,0000"],
)
def test_a_secret_is_in_no_answer_and_no_message(command: str) -> None:
    garbled = command.replace("P", "p").replace("AT", "")
    answer, notices = _ask(command, f"{command}\r\n{garbled}\r\n+INFO: pin 4711\r\n\r\n+CME ERROR: 16\r\n".encode())
    assert "4711" not in " ".join([*answer.lines, *notices, masked(command)])
    dialogue = Dialogue()
    dialogue.begin(command)
    with pytest.raises(InFlight) as refusal:
        dialogue.begin("AT")
    assert "4711" not in str(refusal.value)


def test_a_megabyte_of_anything_leave_the_buffers_small() -> None:
    for noise in (b"x" * 65536, b"+X: 1\r\n" * 9000, b"\x00\xff\x7e" * 20000):
        dialogue = Dialogue()
        dialogue.begin("AT+CSQ")
        for _ in range(1_000_000 // len(noise)):
            dialogue.feed(noise)
        assert len(dialogue.pending) <= MAX_LINE_BYTES
        answer = dialogue.give_up()
        assert len(answer.lines) <= MAX_LINES
        assert len(answer.notices) <= MAX_LINES + 16


_PIECES = st.sampled_from(
    [
        b"OK",
        b"\r\n",
        b"\r",
        b"\n",
        b"AT+CREG?",
        b"> ",
        b">",
        b"+CREG: ",
        b"1",
        b",",
        b'"',
        b"+CME ERROR: ",
        b"NO CARRIER",
        b"\x00",
    ]
)


@given(st.lists(_PIECES | st.binary(max_size=12), max_size=60), st.data())
def test_slicing_never_changes_what_is_heard(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    slices = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    def hear(parts: list[bytes]) -> list[object]:
        dialogue = Dialogue()
        dialogue.begin("AT+CREG?")
        events: list[object] = []
        for part in parts:
            events += dialogue.feed(part)
        if dialogue.busy:
            events.append(dialogue.give_up())
        return events

    assert hear(slices) == hear([stream[i : i + 1] for i in range(len(stream))])
