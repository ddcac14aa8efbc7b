"""One probe of a lab fleet, and what can be seen of its spool from outside while its agent runs."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from agent.service import SPOOL_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from lab.cell.link import Cell
    from lab.modem import SimulatedModem
    from lab.programs import Program
    from lab.sites import SitePlan


class ProbeBox:
    """One probe of the fleet: its agent, and by link name its modems and (not on loopback) its cells."""

    def __init__(self, plan: SitePlan, folder: Path, agent: Program) -> None:
        self.plan = plan
        self.folder = folder
        self.agent = agent
        self.modems: dict[str, SimulatedModem] = {}
        self.cells: dict[str, Cell] = {}

    @property
    def spool_file(self) -> Path:
        """The agent's spool."""
        return self.folder / "data" / SPOOL_FILE

    def backlog(self) -> int:
        """How many results wait in the spool, now; may be asked while the agent runs."""
        return self._ask("SELECT COUNT(*) FROM results")

    def measuring(self) -> bool:
        """Whether a run is under way, now."""
        return self._ask("SELECT COUNT(*) FROM runs WHERE under_way = 1") > 0

    def _ask(self, query: str) -> int:
        """Read one number from the spool without touching it; 0 while there is none."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.spool_file}?mode=ro", uri=True)) as db:
                number: int = db.execute(query).fetchone()[0]
                return number
        except sqlite3.Error:
            return 0
