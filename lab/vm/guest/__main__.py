"""The job of the virtual machine: every journey in turn, each with a diary and a folder of its own in `results`.

A journey that breaks off leaves its traceback in its diary, and does not keep the next one from being made.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import traceback
from pathlib import Path
from typing import Final

from lab.vm.diary import BROKE_OFF, Diary
from lab.vm.guest import modem_manager, serial_link

_STUCK_AFTER_S: Final = 240.0
"""Of the 300 s that the machine has: where it stands then is told, for who reads the transcript."""
JOURNEYS: Final = {"serial_link": serial_link.tell, "modem_manager": modem_manager.tell}


def main(results: Path) -> int:
    """Return how many journeys broke off."""
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s %(message)s")
    faulthandler.dump_traceback_later(_STUCK_AFTER_S)
    broken = 0
    for name, tell in JOURNEYS.items():
        folder = results / name
        folder.mkdir(parents=True)
        diary = Diary(folder / "diary.jsonl")
        try:
            tell(diary, folder)
        except Exception:  # noqa: BLE001  # told to the outside, which judges
            diary.tell(BROKE_OFF, traceback=traceback.format_exc())
            broken += 1
    return broken


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
