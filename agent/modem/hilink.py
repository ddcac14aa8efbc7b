"""Huawei HiLink sticks: a router on USB without a serial port, asked over HTTP (`modem: http://192.168.8.1/`).

The library huawei-lte-api is optional (the extra `hilink`); this module is its one door. Its answers are dictionaries
of texts with units in them ("-97dBm"); a value that the stick does not tell is missing or empty.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final

from agent.modem.errors import CommandRefused, ModemTimeout, NoModem, SimAbsent, SimLocked
from agent.modem.identity import hashed_iccid
from wire.radio import RadioReading, Registration, Technology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEFAULT_ADDRESS: Final = "http://192.168.8.1/"
# Product ids that are a network card without an AT port (usb_modeswitch-data and users' reports; most are 14db, 14dc).
PRODUCTS: Final = frozenset({("12d1", "14db"), ("12d1", "14dc"), ("12d1", "1f01"), ("12d1", "14fe")})
_TIMEOUT_S: Final = 10.0
_ANSWER_S: Final = 45.0
_LOOK_EVERY_S: Final = 2.0
_USSD_BUSY: Final = {111019}  # "USSD processing" in the sticks' own pages: not answered yet
# api/monitoring/status: SimStatus, ServiceStatus, CurrentNetworkTypeEx as in huawei-lte-api's enums.
_SIM_STATES: Final = {"0": "absent", "255": "absent", "240": "locked"}
_LOCKS: Final = {"260": "PIN", "261": "PUK"}
_HOME, _NO_SERVICE, _RESTRICTED = "2", "0", "1"
_LTE: Final = {"19", "101", "1011"}
_NR: Final = {"20", "111"}
_GSM: Final = {"1", "2", "3"}


def is_address(modem: str) -> bool:
    """Whether a link's `modem` is the address of a stick's web pages."""
    return modem.startswith("http://")


def look(address: str) -> tuple[RadioReading, str | None, str | None]:
    """Ask a stick for its radio, model and hashed ICCID; raise NoModem, ModemTimeout, CommandRefused, SimAbsent."""
    with _stick(address) as client:
        status, pin = client.monitoring.status(), client.pin.status()
        signal, plmn = client.device.signal(), client.net.current_plmn()
        device = client.device.information()
    _check_sim(address, status, pin)
    sim = hashed_iccid(_text(device, "Iccid"))
    return radio_of(status, signal, plmn), _text(device, "DeviceName"), sim


def ussd(address: str, code: str) -> str:
    """Send a code and return the operator's text; raise ModemError and its kinds."""
    with _stick(address) as client:
        client.ussd.send(code)
        ends_s = time.monotonic() + _ANSWER_S
        while time.monotonic() < ends_s:
            with contextlib.suppress(_NotYet):
                answer = _unless_busy(client.ussd.get)
                if (text := _text(answer, "content")) is not None:
                    return text
            time.sleep(_LOOK_EVERY_S)
    raise ModemTimeout(f"{address}: the operator did not answer {code} in {_ANSWER_S:.0f} s")


def sms(address: str, number: str, text: str) -> str:
    """Send a message and return the answer, its parts joined; raise ModemError and its kinds.

    Answers of that number are deleted, old ones too: nobody reads them there.
    """
    with _stick(address) as client:
        _take(client, number)
        client.sms.send_sms([number], text)
        ends_s = time.monotonic() + _ANSWER_S
        while time.monotonic() < ends_s:
            if answer := _take(client, number):
                return " ".join(answer)
            time.sleep(_LOOK_EVERY_S)
    raise ModemTimeout(f"{address}: {number} did not answer '{text}' in {_ANSWER_S:.0f} s")


class _NotYet(Exception):
    """The stick still waits for the operator."""


def _unless_busy(get: Callable[[], Any]) -> dict[str, Any]:
    from huawei_lte_api.exceptions import ResponseErrorException  # noqa: PLC0415 - optional, and known to be there

    try:
        return dict(get())
    except ResponseErrorException as error:
        if error.code in _USSD_BUSY:
            raise _NotYet from error
        raise


def _take(client: Any, number: str) -> list[str]:  # noqa: ANN401  # the library has no types of its own for this
    """Read the number's messages, oldest first, and delete them."""
    found = client.sms.get_sms_list(ascending=True)
    messages = (found.get("Messages") or {}).get("Message") or []
    mine = [one for one in messages if (_text(one, "Phone") or "").lstrip("+") == number.lstrip("+")]
    for one in mine:
        client.sms.delete_sms(int(one["Index"]))
    return [_text(one, "Content") or "" for one in mine]


@contextlib.contextmanager
def _stick(address: str) -> Iterator[Any]:
    """Open a stick's pages; what goes wrong inside becomes a ModemError."""
    try:
        from xml.parsers.expat import ExpatError  # noqa: PLC0415 - loaded with it

        from huawei_lte_api.Client import Client  # noqa: PLC0415 - optional: only probes with such a stick need it
        from huawei_lte_api.Connection import Connection  # noqa: PLC0415 - the same
        from huawei_lte_api.exceptions import ResponseErrorException  # noqa: PLC0415 - the same
        from requests.exceptions import ConnectionError as NotThere  # noqa: PLC0415 - comes with it
        from requests.exceptions import RequestException, Timeout  # noqa: PLC0415 - the same
    except ImportError as error:
        raise NoModem(
            f"{address}: this stick is asked over HTTP, and huawei-lte-api is not installed; "
            "run: /opt/probefleet/bin/pip install 'probefleet[hilink]'"
        ) from error
    try:
        with Connection(address, timeout=_TIMEOUT_S) as connection:
            yield Client(connection)
    except Timeout as error:
        raise ModemTimeout(f"{address}: the stick does not answer in {_TIMEOUT_S:g} s; re-plug it") from error
    except NotThere as error:
        raise NoModem(
            f"{address}: no stick answers there; is it plugged in, and has its interface an address?"
        ) from error
    except (ResponseErrorException, RequestException) as error:
        raise CommandRefused(f"{address}: {error}; does the stick want a log-in? switch it off in its pages") from error
    except (ExpatError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CommandRefused(f"{address}: the stick's answer cannot be read ({error}); re-plug it") from error


def _check_sim(address: str, status: dict[str, Any], pin: dict[str, Any]) -> None:
    lock = _LOCKS.get(_text(pin, "SimState") or "")
    if lock is not None:
        raise SimLocked(f"{address}: the SIM waits for its {lock}; switch it off in the stick's pages")
    if _SIM_STATES.get(_text(status, "SimStatus") or "") == "absent":
        raise SimAbsent(f"{address}: the stick finds no SIM; put one in")


def radio_of(status: dict[str, Any], signal: dict[str, Any], plmn: dict[str, Any]) -> RadioReading:
    """Read api/monitoring/status, api/device/signal and api/net/current-plmn."""
    network = _text(status, "CurrentNetworkTypeEx") or _text(status, "CurrentNetworkType")
    technology = _technology(network)
    number = _text(plmn, "Numeric") or ""
    cell = _integer(signal, "cell_id")
    fourth = technology in {Technology.LTE, Technology.NR5G_NSA}
    return RadioReading(
        registration=_registration(status),
        technology=technology,
        operator=_text(plmn, "FullName") or _text(plmn, "ShortName"),
        mcc=number[:3] or None,
        mnc=number[3:] or None,
        tac=_integer(signal, "tac") if fourth else None,
        cell_id=cell,
        enodeb_id=cell >> 8 if fourth and cell is not None else None,
        pci=_integer(signal, "pci") if fourth else None,
        earfcn=_earfcn(signal) if fourth else None,
        band=_integer(signal, "band") if fourth else None,
        bandwidth_mhz=_number(signal, "dlbandwidth") if fourth else None,
        rsrp_dbm=_number(signal, "rsrp") if fourth else None,
        rsrq_db=_number(signal, "rsrq") if fourth else None,
        sinr_db=_number(signal, "sinr") if fourth else None,
        rssi_dbm=_number(signal, "rssi"),
        nr_rsrp_dbm=_number(signal, "nrrsrp"),
        nr_rsrq_db=_number(signal, "nrrsrq"),
        nr_sinr_db=_number(signal, "nrsinr"),
    )


def _registration(status: dict[str, Any]) -> Registration | None:
    service = _text(status, "ServiceStatus")
    if service == _HOME:
        return Registration.ROAMING if _text(status, "RoamingStatus") == "1" else Registration.HOME
    return {_NO_SERVICE: Registration.SEARCHING, _RESTRICTED: Registration.DENIED}.get(service or "")


def _technology(network: str | None) -> Technology | None:
    if network is None or network == "0":
        return None
    if network in _LTE:
        return Technology.LTE
    if network in _NR:
        return Technology.NR5G_SA if network == "20" else Technology.NR5G_NSA
    return Technology.GSM if network in _GSM else Technology.UMTS


def _text(answer: dict[str, Any], key: str) -> str | None:
    value = answer.get(key)
    return value.strip() or None if isinstance(value, str) else None


def _number(answer: dict[str, Any], key: str) -> float | None:
    """Read "-97dBm", "&gt;=-51dBm", "20MHz"."""
    found = re.search(r"-?[0-9]+(?:\.[0-9]+)?", _text(answer, key) or "")
    return float(found[0]) if found else None


def _integer(answer: dict[str, Any], key: str) -> int | None:
    text = _text(answer, key) or ""
    return int(text) if text.isdecimal() else None


def _earfcn(answer: dict[str, Any]) -> int | None:
    """Read "DL:1350 UL:19350"."""
    found = re.search(r"DL:([0-9]+)", _text(answer, "earfcn") or "")
    return int(found[1]) if found else None
