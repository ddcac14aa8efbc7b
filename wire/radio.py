"""What a modem says of its radio, with units. `None` always means that the modem did not say: never 0."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Technology(StrEnum):
    """Access technology, as 3GPP TS 27.007 AcT values group it."""

    GSM = "gsm"
    UMTS = "umts"
    LTE = "lte"
    NR5G_NSA = "nr5g-nsa"
    NR5G_SA = "nr5g-sa"


class Registration(StrEnum):
    """Registration state, 3GPP TS 27.007 section 7.2 (+CREG <stat>)."""

    HOME = "home"
    ROAMING = "roaming"
    SEARCHING = "searching"
    DENIED = "denied"
    NOT_REGISTERED = "not_registered"
    UNKNOWN = "unknown"


class RadioReading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One look at the radio; for 5G non-standalone the plain fields describe the LTE anchor and `nr_*` the NR cell."""

    registration: Registration | None = None
    technology: Technology | None = None
    operator: str | None = None
    mcc: str | None = None
    mnc: str | None = None
    tac: int | None = None
    lac: int | None = None
    cell_id: int | None = None
    enodeb_id: int | None = None
    pci: int | None = None
    earfcn: int | None = None
    band: int | None = None
    bandwidth_mhz: float | None = None
    rsrp_dbm: float | None = None
    rsrq_db: float | None = None
    sinr_db: float | None = None
    rssi_dbm: float | None = None
    nr_band: int | None = None
    nr_arfcn: int | None = None
    nr_pci: int | None = None
    nr_rsrp_dbm: float | None = None
    nr_rsrq_db: float | None = None
    nr_sinr_db: float | None = None
    carriers: int | None = None
    temperature_c: float | None = None
