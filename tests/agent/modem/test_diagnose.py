"""One look tells what a link suffers from: the modem, the SIM, the network, the address, or the world behind it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from agent.bench import Look
from agent.measurements.base import MeasurementFailed
from agent.modem.diagnose import Roots, diagnose, reaches
from agent.modem.errors import ModemError, ModemSilent, NoModem, PortBusy, PortForbidden
from agent.modem.recovery import RecoveryOptions
from agent.settings import Link
from wire.radio import RadioReading, Registration
from wire.reasons import Condition, Reason

if TYPE_CHECKING:
    from pathlib import Path

HOME = RadioReading(registration=Registration.HOME, operator="Viettel")


class Modems:
    """A modem that says one thing."""

    def __init__(self, says: RadioReading | ModemError | Reason) -> None:
        self.says = says

    def look(self, link: Link) -> Look:
        if isinstance(self.says, RadioReading):
            return Look(self.says)
        if isinstance(self.says, ModemError):
            raise MeasurementFailed(self.says.reason, str(self.says)) from self.says
        raise MeasurementFailed(self.says, "x")


def condition(says: RadioReading | ModemError | Reason, *, roots: Roots | None = None, **changes: Any) -> Condition:  # noqa: ANN401  # fields of a Link
    link = Link(**{"name": "a", "interface": "lo", "modem": "auto", **changes})
    return diagnose(link, Modems(says), roots=roots or Roots()).condition


def usb(root: Path, path: str, vendor: str = "2c7c", product: str = "0125") -> Roots:
    folder = root / "bus/usb/devices" / path
    folder.mkdir(parents=True)
    (folder / "idVendor").write_text(vendor)
    (folder / "idProduct").write_text(product)
    return Roots(sys=root, dev=root)


@pytest.mark.parametrize(
    ("says", "wanted"),
    [
        (HOME, Condition.HEALTHY),
        (RadioReading(registration=Registration.ROAMING), Condition.HEALTHY),
        (RadioReading(registration=Registration.SEARCHING), Condition.NOT_REGISTERED),
        (RadioReading(registration=Registration.UNKNOWN), Condition.NOT_REGISTERED),
        (RadioReading(), Condition.NOT_REGISTERED),
        (RadioReading(registration=Registration.DENIED), Condition.DENIED),
        (Reason.SIM_ABSENT, Condition.SIM_ABSENT),
        (Reason.SIM_LOCKED, Condition.SIM_LOCKED),
        (PortBusy("x"), Condition.PORT_HELD),
        (PortForbidden("x"), Condition.PORT_HELD),
    ],
)
def test_what_the_modem_says_is_the_condition(
    says: RadioReading | ModemError | Reason, wanted: Condition, tmp_path: Path
) -> None:
    assert condition(says, roots=usb(tmp_path, "1-1")) is wanted


def test_a_modem_that_is_gone_is_told_from_one_that_is_silent(tmp_path: Path) -> None:
    silent = ModemSilent("nothing answers AT")
    assert condition(NoModem("x"), roots=Roots(tmp_path, tmp_path)) is Condition.ABSENT
    roots = usb(tmp_path, "1-1")
    assert condition(silent, roots=roots) is Condition.SILENT
    assert condition(silent, roots=roots, usb_path="1-2") is Condition.ABSENT
    assert condition(silent, roots=roots, modem=str(tmp_path / "ttyUSB9")) is Condition.ABSENT
    (tmp_path / "ttyUSB9").touch()
    assert condition(silent, roots=roots, modem=str(tmp_path / "ttyUSB9")) is Condition.SILENT


def test_what_only_a_person_can_decide_is_no_reason_for_a_reset(tmp_path: Path) -> None:
    usb(tmp_path, "1-1")
    assert condition(NoModem("several"), roots=usb(tmp_path, "1-2")) is Condition.NEEDS_HANDS
    dead = usb(tmp_path / "dead", "1-1", "05c6", "9008")
    assert condition(NoModem("x"), roots=dead) is Condition.NEEDS_HANDS


def test_an_interface_that_is_missing_has_no_address() -> None:
    assert condition(HOME, interface="wwan97") is Condition.NO_ADDRESS
    assert condition(HOME, interface="wwan97", modem=None) is Condition.NO_ADDRESS


@pytest.mark.parametrize(
    ("reached", "wanted"),
    [
        ({"lo"}, Condition.HEALTHY),
        ({"lo", "other"}, Condition.HEALTHY),
        ({"other"}, Condition.NO_TRAFFIC),
        (set(), Condition.REMOTE),
    ],
)
def test_other_uplinks_tell_whose_outage_it_is(
    reached: set[str], wanted: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(name="a", interface="lo", recovery=RecoveryOptions(check=("192.0.2.1:443",)))
    real = __import__("agent.path", fromlist=["look"]).look
    monkeypatch.setattr("agent.path.look", lambda name: real("lo") if name == "other" else real(name))
    found = diagnose(link, Modems(HOME), others=["other"], reach=lambda name, _: name in reached)
    assert found.condition is wanted
    alone = diagnose(link, Modems(HOME), others=[], reach=lambda name, _: name in reached)
    assert alone.condition is (Condition.HEALTHY if "lo" in reached else Condition.NO_TRAFFIC)


def test_an_answer_is_an_answer_even_if_it_is_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reaches("lo", f"127.0.0.1:{port}")
    assert reaches("lo", f"127.0.0.1:{port}"), "refused: but somebody answered"
    assert not reaches("wwan97", f"127.0.0.1:{port}")
    assert not reaches(None, "no-such-host.invalid:1")
