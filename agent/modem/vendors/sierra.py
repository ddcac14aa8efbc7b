"""Sierra Wireless: the two-column pages !GSTATUS and !NRINFO, the table !LTEINFO, !PCTEMP. Pure.

Sources: EM74xx/MC74xx and EM75xx AT Command Reference (4117727), EM9 Series AT Command Reference.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import hexadecimal, integer, number
from agent.modem.vendors import generic
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply
from wire.radio import Registration, Technology

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.modem.reading import Fields

# --- !GSTATUS, !NRINFO ----------------------------------------------------------------------------------------------


_BAND_5_CHANNELS: Final = frozenset({*range(4357, 4459)} - {*range(4387, 4414)})
"""Downlink UARFCN of UMTS band V that are not of band VI as well, TS 25.101 table 5.1."""


class _Page:
    """A page of `Label: value` in two columns. A label is looked for as a whole: `LTE bw` is not in `LTE Scell bw`."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.lines = lines
        self._text = "\n".join(lines)

    def value(self, label: str) -> str:
        """Return the value behind a label, or an empty string; `-` and `---` are empty too."""
        found = re.search(rf"(?:^|\t|\s\s+|\s)(?<![A-Za-z0-9] ){label}\s*:[ \t]*([^\t\n]*)", self._text, re.MULTILINE)
        value = re.split(r"\s{2,}", found[1].strip())[0] if found else ""
        return "" if re.fullmatch(r"-+", value) else value

    def values(self, label: str) -> list[str]:
        """Return every value of the lines that hold a label (a regular expression)."""
        return re.findall(rf"{label}\s*:[ \t]*(\S+)", self._text)

    def has(self, label: str) -> bool:
        """Whether a label is on the page."""
        return bool(re.search(rf"{label}\s*:", self._text))


def status(reply: Reply) -> Fields:
    """Read !GSTATUS?: of LTE the primary carrier (PCC) counts, and of its antennas the best one."""
    page = _Page(reply.lines)
    if not page.has("System mode"):
        return {}
    mode = page.value("System mode").split(" ")[0]
    technology = signal.technology_of_name("NR5G-NSA" if mode == "ENDC" else mode)
    found: Fields = {"technology": technology}
    temperature = number(page.value("Temperature"))
    if page.has("Temperature"):
        found["temperature_c"] = signal.celsius(temperature)
    found |= _registration(page)
    if technology in signal.EUTRAN:
        found |= _lte(page)
    if technology is Technology.NR5G_NSA or (technology is Technology.LTE and number(page.value(r"NR5G RSRP \(dBm\)"))):
        found |= {"technology": Technology.NR5G_NSA, **_nr_beside(page)}
    elif technology is Technology.NR5G_SA:
        found |= _nr_alone(page)
    elif technology is Technology.UMTS:
        level = number(page.value(r"RX level \(dBm\)") or page.value(r"RxM RSSI C0"))
        band = signal.band_of_name(page.value("WCDMA band"))
        if integer(page.value("WCDMA channel")) in _BAND_5_CHANNELS:
            band = 5  # some firmwares call it WCDMA800
        found |= {
            "rssi_dbm": signal.rssi(level),
            "rsrp_dbm": None,
            "band": band,
        }
    elif technology is None:
        found |= {"band": None, "earfcn": None, "rsrp_dbm": None, "rsrq_db": None, "sinr_db": None}
    return found


def _registration(page: _Page) -> Fields:
    """Read the mobility states: `Registered` says nothing of home or roaming, the other words are clear."""
    states = " ".join(page.value(label) for label in (r"EMM state", r"MM5G state", r"GMM \(PS\) state")).upper()
    if "DEREGISTERED" in states or "NOT REGISTERED" in states:
        return {"registration": Registration.NOT_REGISTERED}
    return {"registration": Registration.SEARCHING} if "SEARCH" in states else {}


def _lte(page: _Page) -> Fields:
    cell = signal.cell(_both(page.value("Cell ID")))
    band = signal.band_of_name(page.value("LTE band"))
    channel = signal.earfcn(integer(page.value("LTE Rx chan")))
    width = re.match(r"([0-9.]+)\s*MHz", page.value("LTE bw"), re.IGNORECASE)
    return {
        "band": band,
        "bandwidth_mhz": signal.within(number(width[1]) if width else None, 1.4, 20),
        # 0 is the lowest channel of band 1; in another band it means that the modem does not know.
        "earfcn": channel if channel or band in {1, None} else None,
        "tac": signal.area(_both(page.value("TAC"))),
        "cell_id": cell,
        "enodeb_id": signal.enodeb(cell),
        "rsrp_dbm": _best(page, r"RSRP(?: \(dBm\))?", signal.rsrp),
        "rssi_dbm": _best(page, r"RSSI(?: \(dBm\))?", signal.rssi),
        "rsrq_db": signal.rsrq(number(page.value(r"RSRQ \(dBm?\)"))),
        "sinr_db": signal.sinr(number(page.value(r"SINR \(dB\)"))),
    }


def _both(value: str) -> int | None:
    """Read `8C65 (35941)`: hexadecimal, then the same in decimal; where they differ the decimal one is believed."""
    found = re.match(r"([0-9A-Fa-f]+)\s*(?:\(\s*([0-9]+)\s*\))?", value)
    if not found:
        return None
    return int(found[2]) if found[2] else hexadecimal(found[1])


def _best(page: _Page, label: str, check: Callable[[float | None], float | None]) -> float | None:
    """Take the best antenna of the primary carrier: lines of PCC, or of no carrier at all on older pages."""
    found: list[float | None] = []
    for line in page.lines:
        if re.match(r"\s*(?:SCC|LTE S|NR5G)", line):
            continue
        found += [check(number(value)) for value in re.findall(rf"(?:^|\s){label}\s*:\s*(-?[0-9.]+)", line)]
    return signal.first_finite(*found)


def _nr_beside(page: _Page) -> Fields:
    return {
        "nr_band": signal.band_of_name(page.value("NR5G band")),
        "nr_arfcn": signal.nr_arfcn(integer(page.value("NR5G Rx chan"))),
        "nr_rsrp_dbm": signal.rsrp(number(page.value(r"NR5G RSRP \(dBm\)"))),
        "nr_rsrq_db": signal.rsrq(number(page.value(r"NR5G RSRQ \(dB\)"))),
        "nr_sinr_db": signal.sinr(number(page.value(r"NR5G SINR \(dB\)"))),
    }


def _nr_alone(page: _Page) -> Fields:
    mcc, mnc = signal.plmn(page.value("NR5G MCC-MNC"))
    width = re.match(r"([0-9.]+)\s*MHz", page.value("NR5G dl bw") or page.value("NR5G bw"), re.IGNORECASE)
    found: Fields = {
        "band": signal.band_of_name(page.value("NR5G band")),
        "earfcn": signal.nr_arfcn(integer(page.value("NR5G Rx chan"))),
        "bandwidth_mhz": signal.within(number(width[1]) if width else None, 5, 800),
        "cell_id": signal.nr_cell(_both(page.value("NR5G Cell ID"))),
        "rsrp_dbm": signal.rsrp(number(page.value(r"NR5G RSRP \(dBm\)"))),
        "rsrq_db": signal.rsrq(number(page.value(r"NR5G RSRQ \(dB\)"))),
        "sinr_db": signal.sinr(number(page.value(r"NR5G SINR \(dB\)"))),
    }
    if page.has("NR5G TAC"):
        found["tac"] = signal.area(_both(page.value("NR5G TAC")))
    return {**found, "mcc": mcc, "mnc": mnc} if mcc else found


def nr_info(reply: Reply) -> Fields:
    """Read !NRINFO? of EM91xx: `Connectivity Mode: SA` describes the serving cell, ENDC the cell beside LTE."""
    page = _Page(reply.lines)
    mode = page.value("Connectivity Mode").upper()
    if not mode:
        return {}
    if mode.startswith("SA"):
        return {"technology": Technology.NR5G_SA, **_nr_alone(page)}
    return {"technology": Technology.NR5G_NSA, **_nr_beside(page)} if page.value(r"NR5G RSRP \(dBm\)") else {}


# --- !LTEINFO, !PCTEMP ----------------------------------------------------------------------------------------------


def lte_info(reply: Reply) -> Fields:
    """Read !LTEINFO?: the row below `Serving:`, column by column. TAC is decimal and CID hexadecimal on one line."""
    header = next((line for line in reply.lines if line.startswith("Serving:")), "")
    names = header.split()[1:]
    rows = (line.split() for line in reply.lines[reply.lines.index(header) + 1 :]) if names else iter(())
    for values in rows:
        if ":" in values[0]:
            continue  # a notice in between
        if len(values) < len(names) - 1 or not values[0].isdigit():
            return {"technology": None, "earfcn": None, "cell_id": None, "rsrp_dbm": None}
        table = dict(zip(names, values, strict=False))
        mcc, mnc = signal.code_pair(table.get("MCC", ""), table.get("MNC", ""), padded=True)
        cell = signal.cell(hexadecimal(table.get("CID", "")))
        return {
            "technology": Technology.LTE,
            "earfcn": signal.earfcn(integer(table.get("EARFCN", ""))),
            "mcc": mcc,
            "mnc": mnc,
            "tac": signal.area(integer(table.get("TAC", ""))),
            "cell_id": cell,
            "enodeb_id": signal.enodeb(cell),
            "band": signal.lte_band(integer(table.get("Bd", ""))),
            "bandwidth_mhz": signal.lte_mhz(integer(table.get("D", ""))),
            "sinr_db": signal.sinr(number(table.get("SNR", ""))),
            "pci": signal.pci(integer(table.get("PCI", ""))),
            "rsrq_db": signal.rsrq(number(table.get("RSRQ", ""))),
            "rsrp_dbm": signal.rsrp(number(table.get("RSRP", ""))),
            "rssi_dbm": signal.rssi(number(table.get("RSSI", ""))),
        }
    return {}


def temperature(reply: Reply) -> Fields:
    """Read !PCTEMP?: `Temperature: 37.24 C`."""
    page = _Page(reply.lines)
    return (
        {"temperature_c": signal.celsius(number(page.value("Temperature").split(" ")[0]))}
        if page.has("Temperature")
        else {}
    )


PARSERS: Final[dict[str, Parser]] = {
    "!GSTATUS": status,
    "!LTEINFO": lte_info,
    "!NRINFO": nr_info,
    "!PCTEMP": temperature,
}

SIERRA: Final = Family(
    key="sierra",
    makers=re.compile(r"sierra|\b(?:MC|EM)7[0-9]{3}|\bEM9[0-9]{3}|\bRC76|\bWP7[0-9]", re.IGNORECASE),
    parsers=PARSERS,
    setup=generic.LOCATION_SETUP,
    profile=Profile(
        polls=(
            Poll(command="AT!GSTATUS?"),
            Poll(command="AT!LTEINFO?"),
            *generic.REGISTRATION_POLLS,
            generic.OPERATOR_POLL,
            generic.PLMN_POLL,
            *generic.SIGNAL_POLLS,
        ),
    ),
    iccid=("AT+ICCID", "AT!ICCID?", "AT+CCID"),
)
