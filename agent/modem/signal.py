"""Numbers in modem replies, without a modem: tolerant fields, 3GPP scales, bands, sentinels to None. Pure."""

from __future__ import annotations

import math
import re
from typing import Final

from wire.radio import Registration, Technology

# --- text to numbers ------------------------------------------------------------------------------------------------


def split_quoted(text: str) -> list[str]:
    """Split at the commas outside quotes; quotes stay, blanks around a field go.

    With an odd number of quotes the quoting cannot be trusted, and every comma splits.
    """
    if text.count('"') % 2:
        return [field.strip() for field in text.split(",")]
    return [field.strip() for field in re.findall(r'(?:^|(?<=,))((?:"[^"]*"|[^",]+)*)(?=,|$)', text)]


def fields_of(text: str) -> list[str]:
    """Split at the commas outside quotes; quotes and surrounding blanks are taken off."""
    return [field.replace('"', "").strip() for field in split_quoted(text)]


def at(fields: list[str], index: int) -> str:
    """Return a field, or an empty string where the reply is shorter."""
    return fields[index] if -len(fields) <= index < len(fields) else ""


_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,9})?")


def number(text: str) -> float | None:
    """Read a decimal number, with or without a fraction; anything else, and the `-0` of Telit, is None."""
    text = text.strip()
    if text == "-0" or not _NUMBER.fullmatch(text):
        return None
    return float(text)


def integer(text: str) -> int | None:
    """Read a decimal integer of at most twelve digits; anything else is None."""
    text = text.strip()
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,12}", text) and text != "-0" else None


def hexadecimal(text: str) -> int | None:
    """Read hexadecimal digits with or without 0x, at most 16 of them; anything else is None."""
    text = text.strip()
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    return int(digits, 16) if re.fullmatch(r"[0-9A-Fa-f]{1,16}", digits) else None


def within(value: float | None, low: float, high: float) -> float | None:
    """Return the value, rounded to hundredths, where it lies in low..high; None elsewhere."""
    return None if value is None or not low <= value <= high else round(value, 2)


# --- what a figure can be -------------------------------------------------------------------------------------------


def rsrp(value: float | None) -> float | None:
    """RSRP or SS-RSRP in dBm: -156..-31 by TS 36.133 9.1.4 and TS 38.133 10.1.6; a sentinel or a code is None."""
    return within(value, -157, -29)


def rsrq(value: float | None) -> float | None:
    """RSRQ or SS-RSRQ in dB: -43..20 by TS 36.133 9.1.7 and TS 38.133 10.1.11."""
    return within(value, -43.5, 20)


def sinr(value: float | None) -> float | None:
    """Signal to noise in dB: -23..40 by TS 38.133 10.1.16; modems clip LTE at -20..30."""
    return within(value, -25, 41)


def rssi(value: float | None) -> float | None:
    """RSSI in dBm. Zero is no value: see +ZRSSI and #SERVINFO of a modem without service."""
    return within(value, -125, -10)


def celsius(value: float | None) -> float | None:
    """Temperature of a modem; -273 and other sentinels are None."""
    return within(value, -50, 150)


def pci(value: int | None) -> int | None:
    """Physical cell identity of LTE: 0..503 by TS 36.211 6.11."""
    return value if value is not None and 0 <= value <= 503 else None  # noqa: PLR2004 - the range stands in the docstring


def nr_pci(value: int | None) -> int | None:
    """Physical cell identity of NR: 0..1007 by TS 38.211 7.4.2.1."""
    return value if value is not None and 0 <= value <= 1007 else None  # noqa: PLR2004 - the range stands in the docstring


def earfcn(value: int | None) -> int | None:
    """EARFCN, 0..262143 by TS 36.101 5.7.3. 65535 stands for "none" in 16-bit firmwares: it is None here."""
    return value if value is not None and 0 <= value < 262144 and value != 65535 else None  # noqa: PLR2004 - see docstring


def nr_arfcn(value: int | None) -> int | None:
    """NR-ARFCN, 0..3279165 by TS 38.104 5.4.2.1; 0 is "none"."""
    return value if value is not None and 0 < value <= 3279165 else None  # noqa: PLR2004 - see docstring


def area(value: int | None) -> int | None:
    """LAC or TAC. 0, FFFE and FFFF (FFFFFE, FFFFFF for the 24 bits of 5GS) say "none": TS 23.003 4.1, 19.4.2.3."""
    return None if value is None or value in {0, 0xFFFE, 0xFFFF} or value >= 0xFFFFFE else value  # noqa: PLR2004


def cell(value: int | None) -> int | None:
    """Cell identity of GSM, UMTS or LTE; 0 and all bits set, in 16, 28 or 32 bits, say "none"."""
    return None if value is None or value in {0, 0xFFFF, 0xFFFFFFF} or value >= 0xFFFFFFFF else value  # noqa: PLR2004


def nr_cell(value: int | None) -> int | None:
    """NR cell identity of 36 bits, TS 38.413 9.3.1.7."""
    return None if value is None or value in {0, 0xFFFFFFFF} or value >= 0xFFFFFFFFF else value  # noqa: PLR2004


def enodeb(cell_id: int | None) -> int | None:
    """Macro eNodeB of an E-UTRAN cell: the upper 20 of 28 bits, TS 36.413 9.2.1.37."""
    return None if cell_id is None else cell_id >> 8


def plmn(text: str) -> tuple[str | None, str | None]:
    """Split a PLMN of five or six digits, with or without a separator, into MCC and MNC; keep leading zeros."""
    found = re.fullmatch(r"\s*([0-9]{3})[ \-/.]?([0-9]{2,3})\s*", text)
    return code_pair(found[1], found[2]) if found else (None, None)


def code_pair(mcc: str, mnc: str, *, padded: bool = False) -> tuple[str | None, str | None]:
    """Check an MCC and an MNC; 000, fff and - are None. `padded`: a one-digit MNC is a number that lost its zero."""
    mcc, mnc = mcc.strip(), mnc.strip()
    if padded and re.fullmatch(r"[0-9]", mnc):
        mnc = f"0{mnc}"
    if not re.fullmatch(r"[0-9]{3}", mcc) or not re.fullmatch(r"[0-9]{2,3}", mnc) or mcc == "000":
        return None, None
    return mcc, mnc


# --- coded scales: index to unit ------------------------------------------------------------------------------------


def csq_rssi(code: int | None) -> float | None:
    """<rssi> of +CSQ, TS 27.007 8.5, in dBm: -113 + 2n; 100..191 is SIMCom's and Quectel's TD-SCDMA scale, n - 216."""
    if code is None:
        return None
    if 0 <= code <= 31:  # noqa: PLR2004 - the scale's end
        return -113.0 + 2 * code
    return code - 216.0 if 100 <= code <= 191 else None  # noqa: PLR2004 - the scale's ends


def bit_error(code: int | None) -> int | None:
    """<ber> of +CSQ, TS 27.007 8.5: an index 0..7; 99 is None."""
    return code if code is not None and 0 <= code <= 7 else None  # noqa: PLR2004 - the scale's end


def coded(code: int | None, last: int, base: float, step: float = 1.0) -> float | None:
    """Read an index 0..last of a linear scale: base + step * index. Anything beyond (99, 255) is None."""
    return round(base + step * code, 2) if code is not None and 0 <= code <= last else None


def rxlev_dbm(code: int | None) -> float | None:
    """<rxlev> of +CESQ, TS 27.007 8.69: -111 + n dBm."""
    return coded(code, 63, -111)


def rscp_dbm(code: int | None) -> float | None:
    """<rscp> of +CESQ: -121 + n dBm."""
    return coded(code, 96, -121)


def ecno_db(code: int | None) -> float | None:
    """<ecno> of +CESQ: -24.5 + n/2 dB."""
    return coded(code, 49, -24.5, 0.5)


def rsrq_db(code: int | None) -> float | None:
    """<rsrq> of +CESQ: -20 + n/2 dB."""
    return coded(code, 34, -20, 0.5)


def rsrp_dbm(code: int | None) -> float | None:
    """<rsrp> of +CESQ: -141 + n dBm."""
    return coded(code, 97, -141)


def ss_rsrp_dbm(code: int | None) -> float | None:
    """<ss_rsrp> of +CESQ, TS 38.133 table 10.1.6.1-1: -157 + n dBm."""
    return coded(code, 126, -157)


def ss_rsrq_db(code: int | None) -> float | None:
    """<ss_rsrq> of +CESQ, TS 38.133 table 10.1.11.1-1: -43.5 + n/2 dB."""
    return coded(code, 126, -43.5, 0.5)


def ss_sinr_db(code: int | None) -> float | None:
    """<ss_sinr> of +CESQ, TS 38.133 table 10.1.16.1-1: -23.5 + n/2 dB."""
    return coded(code, 127, -23.5, 0.5)


# --- bandwidth ------------------------------------------------------------------------------------------------------

_LTE_MHZ: Final = (1.4, 3.0, 5.0, 10.0, 15.0, 20.0)
_LTE_MHZ_BY_BLOCKS: Final = {6: 1.4, 15: 3.0, 25: 5.0, 50: 10.0, 75: 15.0, 100: 20.0}  # TS 36.101 table 5.6-1
# Quectel RG50xQ & RM5xxQ AT commands manual, <NR_DL_bandwidth>.
_NR_MHZ: Final = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0, 200.0, 400.0)


def lte_mhz(index: int | None) -> float | None:
    """LTE bandwidth by index 0..5 (asn.1 order of TS 36.331 `dl-Bandwidth`)."""
    return _LTE_MHZ[index] if index is not None and 0 <= index < len(_LTE_MHZ) else None


def lte_mhz_of_blocks(blocks: int | None) -> float | None:
    """LTE bandwidth by number of resource blocks."""
    return None if blocks is None else _LTE_MHZ_BY_BLOCKS.get(blocks)


def nr_mhz(value: int | None) -> float | None:
    """NR bandwidth by index 0..14; firmwares that send MHz are recognised above 14."""
    if value is None or value < 0:
        return None
    return _NR_MHZ[value] if value < len(_NR_MHZ) else within(value, 15, 800)


# --- bands ----------------------------------------------------------------------------------------------------------

# TS 36.101 table 5.7.3-1: first downlink EARFCN of each band; a band ends where the next one begins.
_FIRST_EARFCN: Final = (
    *((0, 1), (600, 2), (1200, 3), (1950, 4), (2400, 5), (2650, 6), (2750, 7), (3450, 8), (3800, 9), (4150, 10)),
    *((4750, 11), (5010, 12), (5180, 13), (5280, 14), (5380, 0), (5730, 17), (5850, 18), (6000, 19), (6150, 20)),
    *((6450, 21), (6600, 22), (7500, 23), (7700, 24), (8040, 25), (8690, 26), (9040, 27), (9210, 28), (9660, 29)),
    *((9770, 30), (9870, 31), (9920, 32), (10360, 0), (36000, 33), (36200, 34), (36350, 35), (36950, 36), (37550, 37)),
    *((37750, 38), (38250, 39), (38650, 40), (39650, 41), (41590, 42), (43590, 43), (45590, 44), (46590, 45)),
    *((46790, 46), (54540, 47), (55240, 48), (56740, 49), (58240, 50), (59090, 51), (59140, 52), (60140, 53)),
    *((60255, 0), (65536, 65), (66436, 66), (67336, 67), (67536, 68), (67836, 69), (68336, 70), (68586, 71)),
    *((68936, 72), (68986, 73), (69036, 74), (69466, 75), (70316, 76), (70366, 85), (70546, 0)),
)
# TS 25.101 table 5.0: the UMTS band usually meant by a frequency in MHz.
_UMTS_BAND: Final = {2100: 1, 1900: 2, 1800: 3, 1700: 4, 850: 5, 800: 6, 2600: 7, 900: 8, 1500: 11}


def lte_band(value: int | None) -> int | None:
    """E-UTRA operating band, 1..103 by TS 36.101 table 5.5-1; a sentinel is None."""
    return value if value is not None and 1 <= value <= 103 else None  # noqa: PLR2004 - the range stands in the docstring


def nr_band(value: int | None) -> int | None:
    """NR operating band, n1..n263 by TS 38.101."""
    return value if value is not None and 1 <= value <= 263 else None  # noqa: PLR2004 - the range stands in the docstring


def band_of_earfcn(channel: int | None) -> int | None:
    """E-UTRA band of a downlink EARFCN, TS 36.101 table 5.7.3-1; None outside every band."""
    if channel is None or channel < 0:
        return None
    band = 0
    for first, candidate in _FIRST_EARFCN:
        if channel < first:
            break
        band = candidate
    return band or None


def band_of_name(text: str) -> int | None:
    """Band number of names like `LTE BAND 3`, `EUTRAN-BAND7`, `B2`, `n78`, `NR5G_BAND78`, `WCDMA 850`; GSM has none."""
    name = text.strip().upper()
    if re.search(r"GSM|DCS|PCS", name) and "WCDMA" not in name:
        return None
    if re.search(r"WCDMA|UMTS|HSPA", name):
        found = re.search(r"(?:IMT|AWS|[0-9]{3,4})", name)
        if found:
            return {"IMT": 1, "AWS": 4}.get(found[0]) or _UMTS_BAND.get(int(found[0]) if found[0].isdigit() else 0)
    found = re.search(r"(?:BAND|(?<![A-Z])[BN])[ _\-]?([0-9]{1,3})(?![0-9])", name) or re.fullmatch(
        r"(?:[A-Z]+[ _\-])?([0-9]{1,3})", name
    )
    return nr_band(int(found[1])) if found else None


# --- names of 27.007 ------------------------------------------------------------------------------------------------

# <stat>, TS 27.007 7.2 and 10.1.22. Stat 8 (emergency services only) is no registration; 11 (RLOS) is not used here.
_STAT: Final = {
    0: Registration.NOT_REGISTERED,
    1: Registration.HOME,
    2: Registration.SEARCHING,
    3: Registration.DENIED,
    4: Registration.UNKNOWN,
    5: Registration.ROAMING,
    6: Registration.HOME,
    7: Registration.ROAMING,
    8: Registration.NOT_REGISTERED,
    9: Registration.HOME,
    10: Registration.ROAMING,
}
# <AcT>, TS 27.007 7.3. 8 means EC-GSM-IoT there and LTE Cat-M1 or CDMA in vendors' manuals: left unsaid.
_ACT: Final = {
    **dict.fromkeys((0, 1, 3), Technology.GSM),
    **dict.fromkeys((2, 4, 5, 6), Technology.UMTS),
    **dict.fromkeys((7, 9, 10), Technology.LTE),
    **dict.fromkeys((11, 12), Technology.NR5G_SA),
    13: Technology.NR5G_NSA,
}
EUTRAN: Final = frozenset({Technology.LTE, Technology.NR5G_NSA})
"""Technologies whose serving cell is an E-UTRAN cell, so that its identity holds an eNodeB."""


def registration_of(stat: int | None) -> Registration | None:
    """Registration by <stat>."""
    return None if stat is None else _STAT.get(stat)


def technology_of_act(act: int | None) -> Technology | None:
    """Technology by <AcT>."""
    return None if act is None else _ACT.get(act)


_TECHNOLOGY_NAMES: Final = (
    (re.compile(r"NR5G[-_ ]?NSA|EN-?DC|ENDC|5G[-_ ]?NSA|LTE\+NR"), Technology.NR5G_NSA),
    (re.compile(r"(?<![A-Z])NR|5G|NGRAN"), Technology.NR5G_SA),
    (re.compile(r"LTE|E-?UTRAN?|EMTC|CAT-?M|CAT-?NB|NB-?IOT|^4G$|WB-?S1"), Technology.LTE),
    (re.compile(r"WCDMA|UMTS|HSPA|HSDPA|HSUPA|HSUDPA|DC-?HSPA|TD-?S-?CDMA|UTRAN|^3G$"), Technology.UMTS),
    (re.compile(r"GSM|GPRS|EDGE|GERAN|EGPRS|^2G$"), Technology.GSM),
)


def technology_of_name(text: str) -> Technology | None:
    """Technology by the names vendors use; CDMA2000 family, `No Service` and unknown words are None."""
    name = text.strip().upper()
    return next((technology for pattern, technology in _TECHNOLOGY_NAMES if pattern.search(name)), None)


def first_finite(*values: float | None) -> float | None:
    """Return the largest of the values that are known: the best antenna."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return max(known) if known else None
