"""A modem that ModemManager owns: asked through `mmcli -J`, so that nobody else reads its ports.

The key names are those of mmcli 1.20 (`modem.generic.*`, `modem.3gpp.*`, `modem.signal.lte.*`); "--" stands for what
ModemManager does not know. Everything but `mmcli` itself is pure.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from agent.modem.errors import CommandRefused, ModemError, ModemTimeout, NoModem, SimAbsent, SimLocked
from agent.modem.identity import hashed_iccid
from wire.radio import RadioReading, Registration, Technology

Ask = Callable[[Sequence[str]], dict[str, Any]]
"""Runs mmcli with these arguments and returns its JSON; raises ModemError."""

_TIMEOUT_S: Final = 10.0
_SIGNAL_EVERY_S: Final = 10
# MMModem3gppRegistrationState and MMModemAccessTechnology by their nicknames in libmm-glib.
_REGISTRATION: Final = {
    "idle": Registration.NOT_REGISTERED,
    "home": Registration.HOME,
    "searching": Registration.SEARCHING,
    "denied": Registration.DENIED,
    "unknown": Registration.UNKNOWN,
    "roaming": Registration.ROAMING,
    "home-sms-only": Registration.HOME,
    "roaming-sms-only": Registration.ROAMING,
    "home-csfb-not-preferred": Registration.HOME,
    "roaming-csfb-not-preferred": Registration.ROAMING,
}
_GSM: Final = {"gsm", "gsm-compact", "gprs", "edge"}
_UMTS: Final = {"umts", "hsdpa", "hsupa", "hspa", "hspa-plus"}
_AREA_IS_TRACKING: Final = {Technology.LTE, Technology.NR5G_NSA, Technology.NR5G_SA}
_PORT: Final = re.compile(r"(\S+) \((\S+)\)")
_UNUSED_PORT: Final = {"ignored", "net", "audio"}


class MmModem(msgspec.Struct, frozen=True, kw_only=True):
    """A modem as ModemManager lists it. `ports`: kernel names to what they are for."""

    path: str
    usb_path: str
    manufacturer: str | None = None
    model: str | None = None
    state: str | None = None
    failed_because: str | None = None
    unlock_required: str | None = None
    ports: dict[str, str] = {}
    sim: str | None = None
    registration: Registration | None = None
    technologies: tuple[str, ...] = ()
    operator: str | None = None
    operator_code: str | None = None
    pin_tries: int | None = None

    @property
    def ports_in_use(self) -> frozenset[str]:
        """Serial and control ports that ModemManager keeps for itself."""
        return frozenset(name for name, use in self.ports.items() if use not in _UNUSED_PORT)


def mmcli(arguments: Sequence[str], *, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """Run `mmcli -J`; what it prints as plain text is under `text`.

    Raise NoModem where it is not installed, CommandRefused with its complaint, ModemTimeout.
    """
    command = ["mmcli", "-J", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise NoModem("mmcli is not installed; apt-get install modemmanager, or let it ignore this modem") from error
    except OSError as error:
        raise CommandRefused(f"{' '.join(command)}: {error.strerror or error}; does it run by hand?") from error
    except subprocess.TimeoutExpired as error:
        raise ModemTimeout(f"{' '.join(command)}: no answer in {timeout_s:g} s; does ModemManager hang?") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise CommandRefused(f"{' '.join(command)}: {said[-1] if said else f'status {done.returncode}'}")
    try:
        answer = json.loads(done.stdout or b"{}")
    except ValueError:
        text = done.stdout.decode("utf-8", "replace").strip()  # commands that change something print no JSON
        return {"text": text}
    return answer if isinstance(answer, dict) else {}


def modems_of_manager(ask: Ask | None = None) -> list[MmModem]:
    """List ModemManager's modems; none where it does not run."""
    ask = ask or mmcli
    try:
        paths = ask(["-L"]).get("modem-list") or []
        return [parse_modem(ask(["-m", str(path)])) for path in paths]
    except ModemError:
        return []


def name_servers_of_bearer(interface: str, ask: Ask | None = None) -> tuple[str, ...]:
    """List the name servers that the network gave to the bearer of this interface; none where there is no such bearer.

    Keys of mmcli 1.20: `bearer.status.interface`, `bearer.ipv4-config.dns`.
    """
    ask = ask or mmcli
    try:
        for modem in ask(["-L"]).get("modem-list") or []:
            for bearer in _texts(_at(ask(["-m", str(modem)]), "modem", "generic").get("bearers")):
                answer = ask(["-b", bearer])
                if _text(_at(answer, "bearer", "status").get("interface")) == interface:
                    return tuple(_texts(_at(answer, "bearer", "ipv4-config").get("dns")))
    except ModemError:
        pass
    return ()


def parse_modem(answer: dict[str, Any]) -> MmModem:
    """Read `mmcli -m N -J`."""
    generic, radio = _at(answer, "modem", "generic"), _at(answer, "modem", "3gpp")
    ports = [found for text in _texts(generic.get("ports")) if (found := _PORT.fullmatch(text))]
    tries = [text for text in _texts(generic.get("unlock-retries")) if text.startswith("sim-pin (")]
    registered = _text(radio.get("registration-state"))
    return MmModem(
        path=_text(_at(answer, "modem").get("dbus-path")) or "",
        usb_path=PurePosixPath(_text(generic.get("device")) or "").name,
        manufacturer=_text(generic.get("manufacturer")),
        model=_text(generic.get("model")),
        state=_text(generic.get("state")),
        failed_because=_text(generic.get("state-failed-reason")),
        unlock_required=_text(generic.get("unlock-required")),
        ports={found[1]: found[2] for found in ports},
        sim=_text(generic.get("sim")),
        registration=_REGISTRATION.get(registered) if registered else None,
        technologies=tuple(_texts(generic.get("access-technologies"))),
        operator=_text(radio.get("operator-name")),
        operator_code=_text(radio.get("operator-code")),
        pin_tries=int(tries[0].partition("(")[2].rstrip(")")) if tries else None,
    )


def read_radio(modem: MmModem, ask: Ask | None = None) -> RadioReading:
    """Ask ModemManager for the radio, its signal polling switched on if it is off; raise ModemError and its kinds."""
    ask = ask or mmcli
    _check_sim(modem)
    signal = _signal(ask(["-m", modem.path, "--signal-get"]))
    if not signal:
        ask(["-m", modem.path, f"--signal-setup={_SIGNAL_EVERY_S}"])
        signal = _signal(ask(["-m", modem.path, "--signal-get"]))
    try:
        place = _at(ask(["-m", modem.path, "--location-get"]), "modem", "location", "3gpp")
    except CommandRefused:
        place = {}
    return radio_of(modem, signal, place)


def read_technology(modem: MmModem, ask: Ask | None = None) -> RadioReading:
    """Ask ModemManager for technology and registration alone; raise ModemError and its kinds."""
    now = parse_modem((ask or mmcli)(["-m", modem.path]))
    return RadioReading(registration=now.registration, technology=_technology(now.technologies))


def read_iccid_sha256(modem: MmModem, ask: Ask | None = None) -> str | None:
    """Ask for the SIM's number and return its hash only."""
    if modem.sim is None:
        return None
    try:
        return hashed_iccid(_text(_at((ask or mmcli)(["-i", modem.sim]), "sim", "properties").get("iccid")))
    except ModemError:
        return None


def radio_of(modem: MmModem, signal: dict[str, Any], place: dict[str, Any]) -> RadioReading:
    """Merge what ModemManager says; an area code of 0 and what it does not know are None."""
    technology = _technology(modem.technologies)
    four, five = signal.get("lte") or {}, signal.get("5g") or {}
    main = five if technology is Technology.NR5G_SA else four
    cell = _hexadecimal(place.get("cid"))
    code = modem.operator_code or ""
    # By AT, ModemManager 1.20 gives the tracking area as <lac> and 0 as <tac>.
    area, fourth = _hexadecimal(place.get("lac")), technology in _AREA_IS_TRACKING
    beside = technology is Technology.NR5G_NSA
    older = signal.get("gsm") or {} if technology is Technology.GSM else signal.get("umts") or {}
    return RadioReading(
        registration=modem.registration,
        technology=technology,
        operator=modem.operator,
        mcc=_text(place.get("mcc")) or code[:3] or None,
        mnc=_text(place.get("mnc")) or code[3:] or None,
        tac=(_hexadecimal(place.get("tac")) or area) if fourth else None,
        lac=None if fourth else area,
        cell_id=cell,
        enodeb_id=cell >> 8 if cell is not None and fourth and technology is not Technology.NR5G_SA else None,
        rsrp_dbm=_number(main.get("rsrp")),
        rsrq_db=_number(main.get("rsrq")),
        sinr_db=_number(main.get("snr")),
        rssi_dbm=_number(four.get("rssi")) if four.get("rssi") else _number(older.get("rssi")),
        nr_rsrp_dbm=_number(five.get("rsrp")) if beside else None,
        nr_rsrq_db=_number(five.get("rsrq")) if beside else None,
        nr_sinr_db=_number(five.get("snr")) if beside else None,
    )


def _check_sim(modem: MmModem) -> None:
    if modem.failed_because == "sim-missing":
        raise SimAbsent(f"{modem.path}: ModemManager finds no SIM; put one in, contacts clean, the right way round")
    if modem.unlock_required in {"sim-pin", "sim-puk"} or (modem.unlock_required or "").startswith("ph-"):
        raise SimLocked(f"{modem.path}: the SIM waits for a {modem.unlock_required}; switch its PIN off in a phone")


def _technology(names: Sequence[str]) -> Technology | None:
    known = set(names)
    if "5gnr" in known:
        return Technology.NR5G_NSA if "lte" in known else Technology.NR5G_SA
    if "lte" in known:
        return Technology.LTE
    if known & _UMTS:
        return Technology.UMTS
    return Technology.GSM if known & _GSM else None


def _signal(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the technologies that have figures."""
    parts = _at(answer, "modem", "signal")
    names = ("lte", "5g", "umts", "gsm")
    return {n: part for n in names if isinstance(part := parts.get(n), dict) and any(map(_text, part.values()))}


def _at(answer: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        inner = answer.get(key)
        answer = inner if isinstance(inner, dict) else {}
    return answer


def _texts(value: object) -> list[str]:
    return [text for one in value if (text := _text(one))] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value not in {"", "--"} else None


def _number(value: object) -> float | None:
    try:
        return float(text) if (text := _text(value)) else None
    except ValueError:
        return None


def _hexadecimal(value: object) -> int | None:
    try:
        return int(text, 16) or None if (text := _text(value)) else None
    except ValueError:
        return None
