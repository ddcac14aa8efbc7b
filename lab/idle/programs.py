"""Python environments from PyPI for what is measured: each with its own requirements and nothing else.

They are made once, in a cache folder outside the project. What a developer's environment holds besides would be
counted: typing_extensions alone makes msgspec import half a megabyte.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_INSTALL_S: Final = 600
OURS: Final = ("agent", "base", "wire")
NETRICS: Final = ("netrics-measurements==0.2.0",)
MURAKAMI: Final = ("murakami==0.1.0", "pyee<12")
"""Its own requirements let in a pyee of today, with which it does not start."""


class InstallError(Exception):
    """Something cannot be had from PyPI here; the text says why."""


def agent_requirements() -> list[str]:
    """Name what an agent needs, as its installation does."""
    found = []
    for line in importlib.metadata.requires("probefleet") or []:
        requirement, _, marker = line.partition(";")
        if not marker or re.search(r"extra\s*==\s*['\"]agent['\"]", marker):
            found.append(requirement.strip())
    return found


def environment(name: str, requirements: Sequence[str], say: Callable[[str], None]) -> Path:
    """Return the environment's `bin`, making it if need be; raise InstallError."""
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "probefleet"
    folder = cache / f"{name}-{digest}"
    if (folder / "complete").exists():
        return folder / "bin"
    say(f"fetching {', '.join(requirements)} from PyPI into {folder} ...")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    command = [
        str(folder / "bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *requirements,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False, env=clean())
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{name}: pip did not finish within {_INSTALL_S} s") from error
    if done.returncode:
        raise InstallError(f"{name}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    (folder / "complete").touch()
    return folder / "bin"


def copy_of_ours(folder: Path, python: Path) -> Path:
    """Put our packages into a folder by themselves and compile them, as pip does; return it."""
    root = Path(__file__).parents[2]
    for name in OURS:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([python, "-m", "compileall", "-q", folder], check=True, env=clean())
    return folder


def unit_environment() -> dict[str, str]:
    """Read what our unit sets for the agent."""
    unit = Path(__file__).parents[2] / "systemd" / "probefleet-agent.service"
    lines = [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith("Environment=")]
    return dict(word.split("=", 1) for line in lines for word in line.split())


def clean(**more: str) -> dict[str, str]:
    """Return our environment variables without those that change how Python loads programs."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "MALLOC"))
    }
    return kept | more
