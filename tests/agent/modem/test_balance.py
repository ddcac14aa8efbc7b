"""The balance check: operators' texts in every form, a modem on a real pseudo-terminal, and no blind trust."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.balance import Balances, doubt, plain, remaining_bytes
from agent.ledger import Balance as Known
from agent.modem import sms, ussd
from agent.modem.errors import CommandRefused, ModemError, ModemTimeout
from agent.modem.session import ModemSession
from agent.modems import SerialModems
from agent.plan import Spent
from agent.settings import Balance, Link, Plan, RadioJob, Settings, Site
from agent.spool import Spool
from base.broker import BrokerSettings
from wire.results import Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATTERN = Balance(ussd="*102#").pattern
VIETNAMESE = "Quý khách còn lại 1.234,5 MB đến 24h00 ngày 30/06/2026. Soạn KTTK gửi 191"


def says(answers: dict[str, str], *, otherwise: str = "\r\nOK\r\n") -> Callable[[str], bytes]:
    """Make a modem's answers."""
    return lambda command: answers.get(command, otherwise).encode()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (VIETNAMESE, 1_234_500_000),
        ("Quy khach con 2.048MB toc do cao", 2_048_000_000),
        ("Data con lai: 1.5GB, HSD 24:00 hom nay", 1_500_000_000),
        ("Data con lai: 1,25 GB.", 1_250_000_000),
        ("con 1.234 GB", 1_234_000_000),
        ("con lai 12,345,678 KB", 12_345_678_000),
        ("Con 512 KB", 512_000),
        ("TKC: 12.000d. HSD 01/01/2027", None),
        ("Quy khach chua dang ky goi cuoc nao", None),
        ("", None),
        ("con lai 99999999999 GB", None),
        ("con lai 9223372036 GB", 9_223_372_036_000_000_000),
        ("con lai " + "9" * 400 + " MB", None),
    ],
)
def test_what_is_left_is_read_from_an_operators_text(text: str, wanted: int | None) -> None:
    assert remaining_bytes(text, PATTERN) == wanted


def test_a_pattern_is_written_without_accents_and_finds_the_right_one_of_several_figures() -> None:
    text = "Gói ST90 của Quý khách: đã dùng 500 MB, còn lại 1.500 MB"
    assert remaining_bytes(text, r"con lai (?P<number>[0-9.,]+) ?(?P<unit>MB|GB)") == 1_500_000_000
    assert plain("Đã  dùng\nhết") == "Da dung het"


@given(text=st.text(max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    found = remaining_bytes(text, PATTERN)
    assert found is None or 0 <= found < 2**63
    ussd.decode(text, 72)
    ussd.parse(f'+CUSD: 0,"{text}",15')


@given(
    text=st.text(
        st.characters(codec="utf-8", max_codepoint=0x1EF9, exclude_categories=("Cs",)), min_size=2, max_size=80
    )
)
def test_ucs2_is_read_as_it_was_written(text: str) -> None:
    assert ussd.decode(text.encode("utf-16-be").hex().upper(), 72) == text


@given(code=st.from_regex(r"[*#][0-9*]{1,20}#", fullmatch=True))
def test_a_packed_code_unpacks_to_itself(code: str) -> None:
    assert ussd.unpack(bytes.fromhex(ussd.pack(code))) == code


def test_packed_characters_are_those_of_the_specification() -> None:
    assert ussd.pack("*100#") == "AA180C3602"  # TS 23.038 6.1.2.3, and what Huawei sticks are sent for this code
    assert ussd.decode("C8329BFD065DDF72363904", 15) == "Hello World!"


@pytest.mark.parametrize("late", [True, False])
def test_the_text_may_come_before_or_after_the_modems_ok(peer: Callable[..., Any], *, late: bool) -> None:
    said = f'\r\n+CUSD: 0,"{VIETNAMESE.encode("utf-16-be").hex().upper()}",72\r\n'
    answer = f"\r\nOK\r\n{said}" if late else f"{said}\r\nOK\r\n"
    port = peer(says({'AT+CUSD=1,"*102#",15': answer})).port
    with ModemSession(port) as modem:
        assert ussd.ask(modem, "*102#") == VIETNAMESE


def test_a_text_of_several_lines_is_put_together_and_a_menu_is_left(peer: Callable[..., Any]) -> None:
    said = '\r\nOK\r\n\r\n+CUSD: 1,"Con lai 700 MB\r\n1. Mua them\r\n0. Thoat",15\r\n'
    modem_there = peer(says({'AT+CUSD=1,"*101#",15': said}))
    with ModemSession(modem_there.port) as modem:
        assert remaining_bytes(ussd.ask(modem, "*101#"), PATTERN) == 700_000_000
    assert modem_there.heard[-1] == "AT+CUSD=2"


def test_a_stick_that_takes_packed_codes_only_is_given_one(peer: Callable[..., Any]) -> None:
    modem_there = peer(
        says(
            {
                'AT+CUSD=1,"*100#",15': "\r\nERROR\r\n",
                'AT+CUSD=1,"AA180C3602",15': '\r\nOK\r\n\r\n+CUSD: 0,"C8329BFD065DDF72363904",15\r\n',
            }
        )
    )
    with ModemSession(modem_there.port) as modem:
        assert ussd.ask(modem, "*100#") == "Hello World!"


def test_a_network_that_refuses_and_one_that_is_silent_are_errors_of_the_modem(
    peer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ussd, "_NETWORK_S", 0.3)
    with (
        ModemSession(peer(says({'AT+CUSD=1,"*101#",15': "\r\nOK\r\n\r\n+CUSD: 4\r\n"})).port) as modem,
        pytest.raises(CommandRefused, match="does not support it"),
    ):
        ussd.ask(modem, "*101#")
    with ModemSession(peer(says({})).port) as modem, pytest.raises(ModemTimeout, match="did not answer"):
        ussd.ask(modem, "*101#")


class _Phone:
    """A modem with messages; one sent to 191 is answered at the second look."""

    def __init__(self) -> None:
        self.kept = {1: ("191", "Con lai 9 MB"), 2: ("+84900000001", "Chuc mung nam moi")}
        self.looks = 0
        self.sent: list[str] = []

    def __call__(self, command: str) -> bytes:
        if command.endswith("\x1a"):  # the text of a message
            self.sent.append(command[:-1])
            return b"\r\n+CMGS: 7\r\n\r\nOK\r\n"
        if command.startswith("AT+CMGS="):
            return b"\r\n> "
        if command.startswith("AT+CMGD="):
            del self.kept[int(command.partition("=")[2])]
        if command == 'AT+CMGL="REC UNREAD"':
            self.looks += 1
            if self.looks > 1:
                self.kept[3] = ("191", VIETNAMESE.encode("utf-16-be").hex().upper())
        if command.startswith("AT+CMGL="):
            lines = [
                f'+CMGL: {n},"REC UNREAD","{who}",,"26/06/15,08:00:00+28"\r\n{t}' for n, (who, t) in self.kept.items()
            ]
            return ("\r\n" + "\r\n".join(lines) + "\r\n\r\nOK\r\n").encode()
        return b"\r\nOK\r\n"


def test_an_answer_by_message_is_waited_for_read_and_taken_off_the_sim(
    peer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sms, "_LOOK_EVERY_S", 0.05)
    phone = _Phone()
    with ModemSession(peer(phone).port) as modem:
        assert remaining_bytes(sms.ask(modem, "191", "KTDL"), PATTERN) == 1_234_500_000
    assert phone.sent == ["KTDL"]
    assert phone.kept == {2: ("+84900000001", "Chuc mung nam moi")}, "what others wrote stays"


def test_a_message_without_an_answer_is_an_error_of_the_modem(
    peer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sms, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(sms, "_ANSWER_S", 0.3)
    phone = _Phone()
    phone.looks = -1000
    with ModemSession(peer(phone).port) as modem, pytest.raises(ModemTimeout, match="191 did not answer 'KTDL'"):
        sms.ask(modem, "191", "KTDL")


def test_a_figure_far_from_ours_is_a_doubt_and_one_near_is_none() -> None:
    plan = Plan(quota_month_mb=10_000, overhead_percent=0, balance=Balance(ussd="*102#"))
    spent = Spent(0, 4_000_000_000)
    assert doubt(plan, spent, 6_500_000_000) is None
    assert doubt(plan, spent, 3_000_000_000) == "the operator says 3000 MB are left, by our count it is 6000 MB"
    assert doubt(Plan(balance=Balance(ussd="*102#")), spent, 1) is None


class _Clock:
    def __init__(self) -> None:
        self.wall, self.steady_s = datetime(2026, 6, 15, 8, tzinfo=UTC), 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        return self.steady_s

    def quality(self) -> Clock:
        return Clock()


class _Modems(SerialModems):
    def __init__(self, port: str, nowhere: Path) -> None:
        super().__init__(proc_root=nowhere)
        self.port, self.asked = port, 0

    def session(self, _link: Link) -> ModemSession:
        self.asked += 1
        return ModemSession(self.port)


class _Budget:
    def spent(self, _link: Link) -> Spent:
        return Spent(0, 4_000_000_000)


PLAN = Plan(quota_month_mb=10_000, balance=Balance(ussd="*102#"))
SETTINGS = Settings(
    probe_id="p1",
    site=Site(id="s1"),
    broker=BrokerSettings(host="b"),
    links=(Link(name="viettel", interface="wwan0", plan=PLAN), Link(name="other", interface="wwan1")),
    jobs=(RadioJob(name="radio", every_s=60),),
)


def test_it_is_asked_once_a_day_recorded_and_compared(
    peer: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = peer(says({'AT+CUSD=1,"*102#",15': '\r\nOK\r\n\r\n+CUSD: 0,"Con lai 100 MB",15\r\n'})).port
    clock, modems = _Clock(), _Modems(port, tmp_path)
    with closing(Spool(tmp_path / "spool.db", max_bytes=10**9)) as spool:
        balances = Balances(SETTINGS, spool, clock, modems, _Budget())  # type: ignore[arg-type]  # a stand-in
        assert balances.check()
        kept = spool.balance("viettel")
        assert kept is not None
        assert (kept.remaining_bytes, kept.text) == (100_000_000, "Con lai 100 MB")
        assert kept.doubt is not None
        assert "the operator says 100 MB are left" in caplog.text
        assert not balances.check()
        clock.wall += timedelta(hours=25)
        clock.steady_s += 25 * 3600
        modems.port = "/dev/there-is-none"
        assert balances.check()
        assert not balances.check(), "what failed is not tried again at once"
        assert modems.asked == 2
        assert spool.balance("viettel") == kept
    assert issubclass(CommandRefused, ModemError)


class _Odd(SerialModems):
    """A modem whose answer is a defect of ours."""

    def __init__(self) -> None:
        self.asked = 0

    def ask_operator(self, _link: Link, _question: Balance) -> str:
        self.asked += 1
        raise ZeroDivisionError


def test_an_agent_that_an_answer_has_killed_asks_no_second_question_within_hours(tmp_path: Path) -> None:
    clock, modems = _Clock(), _Odd()

    def begin_anew() -> bool:
        clock.steady_s = 0.0
        with closing(Spool(tmp_path / "spool.db", max_bytes=10**9)) as spool:
            return Balances(SETTINGS, spool, clock, modems, _Budget()).check()  # type: ignore[arg-type]  # as above

    with pytest.raises(ZeroDivisionError):
        begin_anew()
    for _ in range(5):
        clock.wall += timedelta(hours=1)
        assert not begin_anew()
    assert modems.asked == 1
    clock.wall += timedelta(hours=1)
    with pytest.raises(ZeroDivisionError):
        begin_anew()


@pytest.mark.parametrize("at", ["", "yesterday", "2026-06-15T08:00:00", "2027-01-01T00:00:00+00:00"])
def test_a_time_that_says_nothing_hinders_no_question(peer: Callable[..., Any], tmp_path: Path, at: str) -> None:
    port = peer(says({'AT+CUSD=1,"*102#",15': '\r\nOK\r\n\r\n+CUSD: 0,"Con lai 100 MB",15\r\n'})).port
    with closing(Spool(tmp_path / "spool.db", max_bytes=10**9)) as spool:
        spool.keep_balance("viettel", Known(at, 1, None, ""))
        assert Balances(SETTINGS, spool, _Clock(), _Modems(port, tmp_path), _Budget()).check()  # type: ignore[arg-type]  # as above
