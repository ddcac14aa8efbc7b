"""The dialects by name: one entry per modem that can be simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lab.modem.huawei import HuaweiMe909
from lab.modem.quectel import QuectelEc25
from lab.modem.simcom import SimcomSim7600

if TYPE_CHECKING:
    from lab.modem.dialect import Dialect

DIALECTS: Final[dict[str, type[Dialect]]] = {kind.name: kind for kind in (QuectelEc25, SimcomSim7600, HuaweiMe909)}
