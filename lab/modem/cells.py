"""Cells a simulated modem can camp on, and the arithmetic that keeps band, channel and frequency consistent."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from wire.radio import Technology


class Band(NamedTuple):
    """One operating band: channel numbers inclusive, downlink edge and uplink distance in MHz."""

    first: int
    last: int
    downlink_mhz: float
    duplex_mhz: float
    tdd: bool = False


# 3GPP TS 36.101 table 5.7.3-1: F_DL = F_DL_low + 0.1 (N_DL - N_offset).
LTE_BANDS: Final = {
    1: Band(0, 599, 2110.0, 190.0),
    3: Band(1200, 1949, 1805.0, 95.0),
    5: Band(2400, 2649, 869.0, 45.0),
    7: Band(2750, 3449, 2620.0, 120.0),
    8: Band(3450, 3799, 925.0, 45.0),
    28: Band(9210, 9659, 758.0, 55.0),
    40: Band(38650, 39649, 2300.0, 0.0, tdd=True),
    41: Band(39650, 41589, 2496.0, 0.0, tdd=True),
}
# 3GPP TS 25.101 table 5.1a (UARFCN of the downlink, general channels): F_DL = N / 5.
UMTS_BANDS: Final = {1: Band(10562, 10838, 2112.4, 190.0), 8: Band(2937, 3088, 927.4, 45.0)}

# 3GPP TS 36.104 table 5.6-1: resource blocks of each channel bandwidth.
RESOURCE_BLOCKS: Final = {1.4: 6, 3.0: 15, 5.0: 25, 10.0: 50, 15.0: 75, 20.0: 100}


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cell. For UMTS `earfcn` is the UARFCN, `pci` the scrambling code, `tac` the LAC and `rsrp_dbm` the RSCP.

    `rsrp_dbm` and `sinr_db` are the means about which the signal wanders, at most `spread_db` to either side.
    Raises ValueError if channel, band and bandwidth do not fit each other.
    """

    mcc: str
    mnc: str
    long_name: str
    short_name: str
    tac: int
    cell_id: int
    pci: int
    band: int
    earfcn: int
    bandwidth_mhz: float = 20.0
    technology: Technology = Technology.LTE
    rsrp_dbm: float = -95.0
    sinr_db: float = 13.0
    spread_db: float = 6.0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "technology", Technology(self.technology))
        bands = {Technology.LTE: LTE_BANDS, Technology.UMTS: UMTS_BANDS}.get(self.technology)
        if bands is None:
            raise ValueError(f"technology {self.technology.value} is not simulated: use lte or umts")
        band = bands.get(self.band)
        if band is None:
            raise ValueError(f"band {self.band} is not simulated: use one of {', '.join(map(str, bands))}")
        if not band.first <= self.earfcn <= band.last:
            raise ValueError(f"channel {self.earfcn} is not in band {self.band}: {band.first} to {band.last}")
        if self.bandwidth_mhz not in RESOURCE_BLOCKS:
            raise ValueError(f"bandwidth {self.bandwidth_mhz} MHz is no LTE bandwidth")
        if not 0 <= self.spread_db <= 20:  # noqa: PLR2004  # beyond that it is another cell, not a wandering signal
            raise ValueError("spread_db must be from 0 to 20")

    @property
    def plmn(self) -> str:
        """MCC and MNC, joined."""
        return self.mcc + self.mnc

    @property
    def band_plan(self) -> Band:
        """The band's channel and frequency plan."""
        return (LTE_BANDS if self.technology is Technology.LTE else UMTS_BANDS)[self.band]

    @property
    def resource_blocks(self) -> int:
        """Resource blocks across the channel (LTE)."""
        return RESOURCE_BLOCKS[self.bandwidth_mhz]

    @property
    def act(self) -> int:
        """Access technology number of 3GPP TS 27.007 section 7.3."""
        return 7 if self.technology is Technology.LTE else 2

    @property
    def downlink_mhz(self) -> float:
        """Carrier frequency of the downlink."""
        if self.technology is Technology.UMTS:
            return self.earfcn / 5
        return self.band_plan.downlink_mhz + 0.1 * (self.earfcn - self.band_plan.first)


class Operator(NamedTuple):
    """A Vietnamese network as a phone names it (recorded +COPS=? answers); its cell here is plausible, not surveyed."""

    mcc: str
    mnc: str
    long_name: str
    short_name: str
    band: int
    earfcn: int
    bandwidth_mhz: float


OPERATORS: Final = {
    "viettel": Operator("452", "04", "Viettel", "Viettel", 3, 1650, 20.0),
    "vinaphone": Operator("452", "02", "VN VINAPHONE", "GPC", 3, 1300, 20.0),
    "mobifone": Operator("452", "01", "VN Mobifone", "Mobifone", 1, 300, 15.0),
    "vietnamobile": Operator("452", "05", "Vietnamobile", "VNMOBILE", 8, 3600, 5.0),
}


def cell_of(operator: str, *, number: int = 1, **changes: Any) -> Cell:  # noqa: ANN401  # any field of Cell
    """Make a plausible LTE cell of `operator`, the `number`-th of its kind; `changes` replace fields of it."""
    found = OPERATORS.get(operator)
    if found is None:
        raise ValueError(f"unknown operator '{operator}': use one of {', '.join(OPERATORS)}")
    enodeb = 0x70000 + int(found.mnc) * 0x1000 + number
    fields: dict[str, Any] = {
        **found._asdict(),
        "tac": 0x2B00 + int(found.mnc) * 16 + number,
        "cell_id": enodeb << 8 | number % 3 + 1,
        "pci": (int(found.mnc) * 101 + number * 37) % 504,
    }
    return Cell(**(fields | changes))
