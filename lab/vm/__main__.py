"""`python -m lab.vm build`: build the disk unless it is there; `run FOLDER`: make the journeys and keep their files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lab.vm import image, journeys


def main() -> None:
    """Exit 0 if it did its work, 1 if it could not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m lab.vm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the disk, unless it is there")
    commands.add_parser("run", help="boot and make the journeys").add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        if options.command == "build":
            image.ready()
            return
        made = journeys.make(options.folder)
    except (image.Unavailable, image.BuildFailed, journeys.GuestFailed) as error:
        sys.exit(str(error))
    sys.stdout.write(made.transcript)
    sys.exit(made.status)


if __name__ == "__main__":
    main()
