"""Simulated USB 4G modems: a stateful AT dialogue on a real pseudo-terminal, with a wandering signal and bad days."""

from __future__ import annotations

from lab.modem.cells import OPERATORS, Cell, cell_of
from lab.modem.dialects import DIALECTS
from lab.modem.faults import Fault, FaultKind
from lab.modem.simulated import SimulatedModem
from lab.modem.state import Sim, SimLock

__all__ = ["DIALECTS", "OPERATORS", "Cell", "Fault", "FaultKind", "Sim", "SimLock", "SimulatedModem", "cell_of"]
