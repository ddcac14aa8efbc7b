"""The disk of the virtual machine: built once per recipe, under a minute, kept in the user's cache folder."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from lab.vm import initrd, recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_BUILD_WITHIN_S: Final = 600
_NEEDS: Final = {"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs"}


class Unavailable(Exception):
    """No virtual machine can be had on this computer; the text says why and what to do."""


class BuildFailed(Exception):
    """The disk could not be built; the text ends with the tool's last words."""


class Image(NamedTuple):
    """What qemu boots."""

    kernel: Path
    initrd: Path
    disk: Path


def say(text: str) -> None:
    """Tell a person what takes its time."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # progress, for people


def ready(say: Callable[[str], None] = say) -> Image:
    """Return the image, built if it is not there yet; raise Unavailable, BuildFailed.

    Two processes that need it at the same time build it once.
    """
    require_tools()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "probefleet"
    folder = cache / f"vm-{recipe.digest()}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "vm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _build_into(folder, say)
    return Image(folder / "kernel", folder / "initrd", folder / "disk")


def require_tools() -> None:
    """Raise Unavailable where something is missing."""
    if os.uname().machine != "x86_64":
        raise Unavailable(f"the virtual machine is an x86-64 one, this computer is {os.uname().machine}")
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [package for tool, package in _NEEDS.items() if shutil.which(tool, path=path) is None]
    if missing:
        raise Unavailable(f"missing: {', '.join(missing)}; apt-get install --no-install-recommends {' '.join(missing)}")
    if os.geteuid() != 0:
        raise Unavailable("building its disk needs root")


def _build_into(folder: Path, say: Callable[[str], None]) -> None:
    """Build beside `folder`, then name it so: what bears the name is whole."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="vm-unfinished-") as unfinished:
        made = Path(unfinished) / "made"
        made.mkdir()
        root = Path(unfinished) / "root"
        say(f"Building the disk of the virtual machine, once (a minute): Debian {recipe.SUITE} ...")
        _debian(root, made)
        say("... its kernel and drivers ...")
        _drivers(root, made)
        say("... settings, file system ...")
        _settings(root)
        size = f"{recipe.DISK_MB}M"
        _tool(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, made / "disk", size])
        made.rename(folder)
    say(f"... done: {folder}")


def _debian(root: Path, made: Path) -> None:
    """Make the root file system, and put the kernel into `made`."""
    hook = made.parent / "kernel-hook"
    hook.write_text(recipe.KERNEL_HOOK, encoding="ascii")
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.NO_FILES_OF]
    options = ("--variant=minbase", f"--include={','.join(recipe.PACKAGES)}", *excluded)
    _tool(["mmdebstrap", *options, f'--customize-hook=sh {hook} "$1" {made}', recipe.SUITE, root])


def _drivers(root: Path, made: Path) -> None:
    """Drop drivers for hardware that no virtual machine has, index the others, and pack those that find the disk."""
    (modules,) = (root / "usr/lib/modules").iterdir()
    for family in recipe.NO_MODULES_OF:
        shutil.rmtree(modules / "kernel" / family)
    _tool(["chroot", root, "depmod", modules.name])
    listed = _tool(
        ["chroot", root, "modprobe", "-S", modules.name, "-a", "--show-depends", *recipe.INITRD_MODULES]
    ).splitlines()
    files = {Path(path).name: root / path.lstrip("/") for path in (line.split()[1] for line in listed)}
    drivers = {name: file.read_bytes() for name, file in files.items()}
    (made / "initrd").write_bytes(initrd.archive((root / "usr/bin/busybox").read_bytes(), drivers))


def _settings(root: Path) -> None:
    (root / "etc/systemd/system/job.service").write_text(recipe.JOB_UNIT, encoding="ascii")
    script = root / "usr/local/sbin/run-job"
    script.write_text(recipe.JOB_SCRIPT, encoding="ascii")
    script.chmod(0o755)
    for verb, units in (("mask", recipe.MASKED), ("disable", recipe.DISABLED), ("enable", ("job.service",))):
        _tool(["systemctl", f"--root={root}", verb, *units])


def _tool(command: Sequence[str | Path]) -> str:
    environment = {**os.environ, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_BUILD_WITHIN_S, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{command[0]}: no end after {_BUILD_WITHIN_S} s") from error
    if done.returncode != 0:
        raise BuildFailed(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
