"""The fleet's plan: which sites there are, which links they have, how fast their cells are. Pure, always the same.

Communes and codes are Lai Châu's since 1 July 2025 (General Statistics Office of Vietnam); sites, rates and cells are
made up.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import Final, Literal

COMMUNE_SCHEME: Final = "GSO-2025-07-01"

# code, kind (Phường: ward, Xã: commune), name
_COMMUNES: Final = tuple(
    line.split(maxsplit=2)
    for line in """\
03408 Phường Tân Phong
03451 Xã Mù Cả
03478 Xã Sìn Hồ
03388 Phường Đoàn Kết
03390 Xã Bình Lư
03394 Xã Sin Suối Hồ
03405 Xã Tả Lèng
03424 Xã Bản Bo
03430 Xã Khun Há
03433 Xã Bum Tở
03434 Xã Nậm Hàng
03439 Xã Thu Lũm
03442 Xã Pa Ủ
03445 Xã Mường Tè
03460 Xã Hua Bum
03463 Xã Tà Tổng
03466 Xã Bum Nưa
03472 Xã Mường Mô
03487 Xã Lê Lợi
03503 Xã Pa Tần
03508 Xã Hồng Thu
03517 Xã Nậm Tăm
03529 Xã Tủa Sín Chải
03532 Xã Pu Sam Cáp
03538 Xã Nậm Mạ
03544 Xã Nậm Cuổi
03549 Xã Phong Thổ
03562 Xã Sì Lở Lầu
03571 Xã Dào San
03583 Xã Khổng Lào
03595 Xã Than Uyên
03598 Xã Tân Uyên
03601 Xã Mường Khoa
03613 Xã Nậm Sỏ
03616 Xã Pắc Ta
03618 Xã Mường Than
03637 Xã Mường Kim
03640 Xã Khoen On
""".splitlines()
)
MOST_SITES: Final = len(_COMMUNES)

# Download and upload of the cells, Mbps: the first four are the demo's, the others follow in a larger fleet.
_RATES_MBPS: Final = ((62, 21), (38, 12), (9, 3), (90, 30), (47, 16), (71, 25), (24, 8), (55, 14))
_RTTS_MS: Final = (34, 41, 48, 37, 44, 31, 50, 39)
_OPERATORS: Final = (
    "viettel",
    "vinaphone",
    "vietnamobile",
    "mobifone",
)  # the third has 5 MHz here: the slow ones are its
_MODEMS: Final = ("quectel-ec25", "simcom-sim7600")
_CELL_ONLY_SITE: Final = 1  # counted from 0: the second site has no other way out than its cell


@dataclass(frozen=True)
class LinkPlan:
    """One link: its name (the operator's), its modem's dialect, and what its cell is like."""

    operator: str
    modem: str
    number: int
    down_mbps: float
    up_mbps: float
    rtt_ms: float
    rsrp_dbm: float
    sinr_db: float
    interface: str

    @property
    def name(self) -> str:
        """Its name in agent.yaml."""
        return self.operator


@dataclass(frozen=True)
class SitePlan:
    """One site with one probe. `uplink`: how the probe reaches the servers besides the tests."""

    site_id: str
    kind: str
    commune_name: str
    commune: str
    links: tuple[LinkPlan, ...]
    uplink: Literal["eth0", "cell"] = "eth0"

    @property
    def probe_id(self) -> str:
        """Also its MQTT user name."""
        return f"lc-{self.site_id}-1"

    @property
    def name(self) -> str:
        """What people call it: the People's Committee of the commune."""
        return f"UBND {self.kind.lower()} {self.commune_name}"


def fleet(sites: int) -> tuple[SitePlan, ...]:
    """Plan a fleet of so many sites; the first has two links, the second is reached by its cell alone.

    ValueError unless 1 to MOST_SITES.
    """
    if not 1 <= sites <= MOST_SITES:
        raise ValueError(f"a fleet has 1 to {MOST_SITES} sites, as Lai Châu has communes; not {sites}")
    plan = []
    number = 0
    for index, (code, kind, name) in enumerate(_COMMUNES[:sites]):
        count = 2 if index == 0 else 1
        links = tuple(_link(number + offset, f"wwan{offset}") for offset in range(count))
        number += count
        uplink: Literal["eth0", "cell"] = "cell" if index == _CELL_ONLY_SITE else "eth0"
        plan.append(
            SitePlan(site_id=slug(name), kind=kind, commune_name=name, commune=code, links=links, uplink=uplink)
        )
    return tuple(plan)


def on_loopback(plan: tuple[SitePlan, ...]) -> tuple[SitePlan, ...]:
    """Fit a fleet to where there is no network but `lo`: one link per probe, since an interface is one link."""
    return tuple(replace(site, uplink="eth0", links=(replace(site.links[0], interface="lo"),)) for site in plan)


def slug(name: str) -> str:
    """Spell a Vietnamese name in a-z and dashes: Đoàn Kết → doan-ket."""
    plain = unicodedata.normalize("NFD", name.lower().replace("đ", "d"))
    return "-".join("".join(char for char in plain if char.isascii()).split())


def _link(number: int, interface: str) -> LinkPlan:
    down_mbps, up_mbps = _RATES_MBPS[number % len(_RATES_MBPS)]
    rsrp_dbm = -112.0 + 0.3 * min(down_mbps, 80.0)  # a fast cell is a near one
    return LinkPlan(
        operator=_OPERATORS[number % len(_OPERATORS)],
        modem=_MODEMS[number % len(_MODEMS)],
        number=number + 1,
        down_mbps=down_mbps,
        up_mbps=up_mbps,
        rtt_ms=_RTTS_MS[number % len(_RTTS_MS)],
        rsrp_dbm=rsrp_dbm,
        sinr_db=rsrp_dbm + 110.0,
        interface=interface,
    )
