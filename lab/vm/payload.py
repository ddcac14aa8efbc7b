"""What the virtual machine gets of us: this project's packages and the libraries that its agent needs, as a tar.

The libraries are this interpreter's own, compiled parts included, so both must be of the same CPython.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.vm.image import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROJECT: Final = Path(__file__).parents[2]
_PACKAGES: Final = ("wire", "base", "agent", "lab")
_DISTRIBUTION: Final = "probefleet"
_PYTHON_OF_DEBIAN: Final = (3, 11)
_RUN: Final = """\
#!/bin/sh
export PYTHONPATH=/job/src:/job/libraries
exec python3 -m lab.vm.guest /job/results
"""


def pack() -> bytes:
    """Return the job of lab.vm.guest; raise Unavailable where its libraries could not be loaded."""
    if sys.version_info[:2] != _PYTHON_OF_DEBIAN:
        ours = ".".join(map(str, sys.version_info[:2]))
        raise Unavailable(f"Debian 12 has CPython 3.11, this is {ours}: the libraries' compiled parts do not fit")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        run = tarfile.TarInfo("run")
        run.size, run.mode = len(_RUN), 0o755
        tar.addfile(run, io.BytesIO(_RUN.encode("ascii")))
        for package in _PACKAGES:
            tar.add(_PROJECT / package, f"src/{package}")
        for name, path in _library_files():
            tar.add(path, f"libraries/{name}")
    return buffer.getvalue()


def _library_files() -> Iterator[tuple[str, Path]]:
    """Yield the installed files of the agent's requirements and of ourselves (our version is read at run time)."""
    for name in (_DISTRIBUTION, *_requirements()):
        for file in metadata.files(name) or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and path.is_file():
                yield str(file), path


def _requirements() -> Iterator[str]:
    """Name what we require always and for the agent (`name>=1; extra == "agent"`)."""
    for line in metadata.requires(_DISTRIBUTION) or ():
        requirement, _, marker = line.partition(";")
        if not marker or re.fullmatch(r"""\s*extra == ['"]agent['"]\s*""", marker):
            found = re.match(r"[A-Za-z0-9._-]+", requirement)
            if found:
                yield found[0]
