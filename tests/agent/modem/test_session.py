"""Sessions over a real pseudo-terminal: good days and every bad one; nothing lasts beyond the deadline."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.modem import conversation
from agent.modem.errors import (
    CommandRefused,
    ModemError,
    ModemSilent,
    ModemTimeout,
    NoModem,
    NotAModem,
    NotRegistered,
    PortBusy,
    PortLost,
    SimAbsent,
    SimLocked,
)
from agent.modem.identity import Identity, hashed_iccid
from agent.modem.serial_port import open_port
from agent.modem.session import ModemSession, require_registration
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Peer  # type: ignore[import-not-found]  # only a name for the reader

QENG = 'AT+QENG="servingcell"'


def test_a_look_at_the_radio(peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]) -> None:
    with ModemSession(peer(ec25()).port) as modem:
        identity = modem.identify()
        radio = modem.read_radio()
        assert modem.sim_state() == "ready"
    assert (identity.vendor, identity.manufacturer, identity.model) == ("quectel", "Quectel", "EC25")
    assert (identity.imei, identity.iccid) == ("861234567890123", "89840200001234567890")
    assert radio == RadioReading(
        registration=Registration.HOME,
        technology=Technology.LTE,
        operator="Viettel",
        mcc="452",
        mnc="04",
        tac=55015,
        cell_id=138729770,
        enodeb_id=541913,
        pci=248,
        earfcn=1275,
        band=3,
        bandwidth_mhz=20,
        rsrp_dbm=-89,
        rsrq_db=-8,
        sinr_db=16,
        rssi_dbm=-61,
        temperature_c=30,
    )


def test_no_identity_is_in_the_story_or_in_a_repr(
    peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    with ModemSession(peer(ec25()).port) as modem:
        identity = modem.identify()
        modem.ask('AT+CPIN="4711"')
    story = "\n".join(modem.transcript.lines())
    for secret in ("861234567890123", "89840200001234567890", "4711"):
        assert secret not in story
        assert secret not in repr(identity)
    assert "> AT+CPIN=****" in story
    assert identity.iccid_sha256 is not None
    assert len(identity.iccid_sha256) == 64


def test_a_modem_unplugged_in_the_middle_of_a_reply_is_lost_at_once(
    peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    far = peer(ec25(faults={QENG: None}))
    with pytest.raises(PortLost, match="plugged in") as lost, ModemSession(far.port, deadline_s=300) as modem:
        modem.read_radio()
    assert lost.value.reason is Reason.LINK_LOST
    assert any(QENG in line for line in lost.value.story)


def test_silence_ends_at_the_deadline(peer: Callable[..., Peer]) -> None:
    far = peer(lambda _: b"")
    with pytest.raises(ModemSilent, match="powered") as silent, ModemSession(far.port, deadline_s=0.5):
        pass
    assert silent.value.reason is Reason.MODEM_SILENT


@pytest.mark.parametrize(
    ("endless", "told"),
    [
        (b"$GPGGA,092750.000,5321.6802,N,00630.3372,W,1,8,1.03,61.7,M,55.2,M,,*76\r\n", "positioning"),
        (b"\x7e\x13\x02\xff\x00\x7e", "binary"),
        (b"x" * 512, "does not answer AT"),
        (b"login: \r\n", "does not answer AT"),
    ],
)
def test_a_port_that_never_falls_silent_is_no_modem(peer: Callable[..., Peer], endless: bytes, told: str) -> None:
    far = peer(lambda _: b"", endless=endless * 64)
    ticks = itertools.count()
    tracemalloc.start()
    with (
        pytest.raises(NotAModem, match=told) as refused,
        ModemSession(far.port, deadline_s=30, clock=lambda: next(ticks) * 0.001),
    ):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.reason is Reason.NO_MODEM
    assert next(ticks) < 6000, "it was the clock that ended it, not the amount of noise"
    assert peak < 4_000_000


def test_a_device_that_only_echoes_is_no_modem(peer: Callable[..., Peer]) -> None:
    far = peer(lambda command: command.encode() + b"\r\n")
    with pytest.raises(NotAModem), ModemSession(far.port, deadline_s=0.5):
        pass


def test_a_modem_that_talks_by_itself_is_still_understood(
    peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    noisy = b'\r\n+CEREG: 5,"0001","00000001",7\r\n\r\nRING\r\n'
    answer = ec25()

    def talk(command: str) -> bytes:
        reply = answer(command)
        assert reply is not None
        return noisy + reply + noisy

    with ModemSession(peer(talk, unasked=b"\r\nRDY\r\n").port) as modem:
        radio = modem.read_radio()
    assert (radio.registration, radio.tac) == (Registration.HOME, 55015)


def test_an_answer_without_its_end_is_read_and_the_next_one_is_not_confused(
    peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    far = peer(ec25(faults={"AT+CPIN?": b"\r\n+CPIN: READY\r\n"}))
    with ModemSession(far.port) as modem:
        assert modem.ask("AT+CPIN?", timeout_s=0.2).lines == ("+CPIN: READY",)
        assert modem.ask("AT+CGMM").lines == ("EC25",)


def test_a_stalled_command_ends_at_the_deadline_of_the_session(
    peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    far = peer(ec25(faults={QENG: b"\r\n+QENG: "}))
    with pytest.raises(ModemTimeout, match="QENG") as late, ModemSession(far.port, deadline_s=1.0) as modem:
        modem.read_radio()
    assert late.value.reason is Reason.MODEM_SILENT


def test_a_modem_that_falls_silent_is_given_up(
    peer: Callable[..., Peer],
    ec25: Callable[..., Callable[[str], bytes | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversation, "_SYNC_TRY_S", 0.1)
    answer = ec25()
    hung: list[bool] = []
    far = peer(lambda command: b"" if hung else answer(command))
    with ModemSession(far.port) as modem:
        hung.append(True)
        assert modem.ask("AT+CSQ", timeout_s=0.1).final is None
        with pytest.raises(ModemSilent, match="power cycle"):
            modem.ask("AT+CSQ", timeout_s=0.1)


@pytest.mark.parametrize(
    ("reply", "error", "reason"),
    [
        (b"\r\n+CME ERROR: 10\r\n", SimAbsent, Reason.SIM_ABSENT),
        (b"\r\n+CME ERROR: SIM not inserted\r\n", SimAbsent, Reason.SIM_ABSENT),
        (b"\r\n+CPIN: SIM PIN\r\n\r\nOK\r\n", SimLocked, Reason.SIM_LOCKED),
        (b"\r\n+CPIN: SIM PUK\r\n\r\nOK\r\n", SimLocked, Reason.SIM_LOCKED),
        (b"\r\n+CPIN: READY\r\n\r\nOK\r\n", CommandRefused, Reason.MODEM_ERROR),
    ],
)
def test_a_radio_that_says_nothing_is_explained_by_the_sim(
    peer: Callable[..., Peer],
    ec25: Callable[..., Callable[[str], bytes | None]],
    reply: bytes,
    error: type[ModemError],
    reason: Reason,
) -> None:
    mute = dict.fromkeys((QENG, "AT+QCSQ", "AT+CEREG?", "AT+COPS?", "AT+QTEMP"), b"\r\nERROR\r\n")
    far = peer(ec25(faults={**mute, "AT+CPIN?": reply}))
    with pytest.raises(error) as failure, ModemSession(far.port) as modem:
        modem.read_radio()
    assert failure.value.reason is reason


def test_a_denied_registration_is_a_reading_and_can_be_required(
    peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    far = peer(ec25(table={"AT+CEREG?": "+CEREG: 0,3"}))
    with ModemSession(far.port) as modem:
        radio = modem.read_radio()
    assert radio.registration is Registration.DENIED
    with pytest.raises(NotRegistered, match="denied") as refused:
        require_registration(radio, far.port)
    assert refused.value.reason is Reason.NO_REGISTRATION


def test_a_port_that_is_not_there_or_no_port_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoModem, match="no such port"), ModemSession(str(tmp_path / "ttyUSB9")):
        pass
    (tmp_path / "file").write_text("")
    for name in ("file", "."):
        with pytest.raises(ModemError, match=str(tmp_path)), ModemSession(str(tmp_path / name)):
            pass


def test_one_port_has_one_reader(peer: Callable[..., Peer]) -> None:
    name = peer(lambda _: b"").port
    door = open_port(name)
    with pytest.raises(PortBusy, match="another program"):
        open_port(name)
    door.close()
    open_port(name).close()


def test_a_session_leaves_no_port_open(peer: Callable[..., Peer]) -> None:
    far = peer(lambda _: b"")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(ModemSilent), ModemSession(far.port, deadline_s=0.1):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("read", ["8984044400000000001", "8984044400000000001F", "+CCID: 8984044400000000001"])
def test_a_sim_has_one_hash_whoever_reads_its_number(read: str) -> None:
    """A stick's pages and ModemManager say it with the filling F or without, a modem's port with a name before it."""
    assert hashed_iccid(read) == Identity(iccid="8984044400000000001").iccid_sha256
    assert hashed_iccid("") is None
