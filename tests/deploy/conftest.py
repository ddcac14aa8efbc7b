"""A Debian to install on: this machine's own tree under a throw-away overlay, booted by systemd-nspawn."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from lab.modem.cells import cell_of
from lab.modem.simulated import SimulatedModem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = "/usr/local/src/probefleet"
"""Where docs/install.md has the repository."""
BOOT_WITHIN_S: Final = 30.0

# All mounts live in a mount namespace of their own, all cgroups below one of their own: nothing to clean up but that.
# The units that this machine has enabled stay off; its journal is not the new machine's. nspawn would itself forbid to
# read the state of the clock.
_BOOT: Final = r"""
set -eu
for hierarchy in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
  [ -w "$hierarchy/cgroup.procs" ] || continue
  mkdir "$hierarchy/$NAME"
  echo $$ >"$hierarchy/$NAME/cgroup.procs"
done
mount -t tmpfs tmpfs "$FOLDER"
mkdir "$FOLDER/upper" "$FOLDER/work" "$FOLDER/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
cd "$FOLDER/root"
rm -rf etc/systemd/system/*.wants etc/systemd/system/irtt.service var/log/journal opt/probefleet etc/probefleet
rm -rf etc/mosquitto/conf.d/*.conf var/lib/influxdb/* var/lib/mosquitto/* var/lib/probefleet-*
exec systemd-nspawn --register=no --keep-unit --quiet --link-journal=no --resolv-conf=off --timezone=off \
  --system-call-filter="adjtimex clock_adjtime" \
  --private-network --machine="$NAME" --directory="$FOLDER/root" --console=pipe "$@" --boot
"""


class Machine:
    """The booted machine; commands run in it as root."""

    def __init__(self, folder: Path, binds: list[str]) -> None:
        """Boot; raise AssertionError with what it said."""
        self.name = f"probefleet-{os.getpid()}"
        self.source = SOURCE
        self._log = (folder / "console.log").open("w+b")
        (folder / "mount").mkdir()
        self._nspawn = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", _BOOT, "boot", *binds],
            env={"PATH": os.environ["PATH"], "NAME": self.name, "FOLDER": str(folder / "mount")},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self._leader = self._wait_for_leader()
            self.wait_until(self._running, BOOT_WITHIN_S, "the machine is up")
        except BaseException:
            self.close()
            raise

    def run(self, *command: str, check: bool = True, stdin: str = "", timeout_s: float = 60) -> str:
        """Run a command in the machine; return what it printed, both streams, or fail with it."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        inside = ["nsenter", "--target", str(self._leader), "--all", "--"]
        inside += ["timeout", str(timeout_s), "env", "-i", "HOME=/root", "LANG=C.UTF-8", path]
        done = subprocess.run(
            [*inside, *command], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if check:
            assert done.returncode == 0, f"{command[-1][-200:]} ended with {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def works(self, *command: str) -> bool:
        """Whether a command ends with 0."""
        return self.run("bash", "-c", '"$@" >/dev/null 2>&1 && echo yes || echo no', "works", *command) == "yes\n"

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def journal(self, unit: str) -> str:
        """Return what a unit has logged lately."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-n", "80", "-u", unit, check=False)

    def wait_until(self, holds: Callable[[], bool], within_s: float, what: str) -> None:
        """Look ten times a second until something holds."""
        deadline_s = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline_s:
                pytest.fail(f"not within {within_s:.0f} s: {what}\n{self.journal('probefleet-*')}")
            time.sleep(0.1)

    def console(self) -> str:
        """Return what nspawn and the machine have said."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-4000:]

    def close(self) -> None:
        """Switch it off and remove its control groups."""
        with contextlib.suppress(ProcessLookupError, AttributeError):
            os.kill(self._leader, signal.SIGKILL)
        try:
            self._nspawn.wait(10)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._log.close()
        for hierarchy in ("unified", "systemd"):
            groups = Path("/sys/fs/cgroup", hierarchy, self.name)
            for group in sorted(groups.rglob("*/"), reverse=True) if groups.is_dir() else ():
                with contextlib.suppress(OSError):
                    group.rmdir()
            with contextlib.suppress(OSError):
                groups.rmdir()

    def _wait_for_leader(self) -> int:
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        deadline_s = time.monotonic() + BOOT_WITHIN_S
        while time.monotonic() < deadline_s and self._nspawn.poll() is None:
            for pid in children.read_text().split():
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                        return int(pid)
            time.sleep(0.05)
        raise AssertionError(f"the machine did not boot:\n{self.console()}")

    def _running(self) -> bool:
        assert self._nspawn.poll() is None, f"the machine went down:\n{self.console()}"
        return self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}


@pytest.fixture(scope="session")
def wheels() -> Path:
    """Give the Python packages of all roles, so that the machine installs without a network; kept between runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = {*project["project"]["dependencies"], *project["build-system"]["requires"]}
    wanted |= {*extras["agent"], *extras["collector"], *extras["responder"]}
    constraints = ROOT / "scripts/constraints.txt"
    stamp = hashlib.sha256("\n".join([*sorted(wanted), constraints.read_text(), sys.version]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "probefleet"
    folder = cache / f"wheels-{stamp}"
    if not folder.is_dir():
        making = cache / f"making-{os.getpid()}"
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *_for_debians_python()]
        command = [*pip, "wheel", "-w", making, "-c", constraints, *sorted(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"pip could not get the Python packages:\n{done.stderr}"
        with contextlib.suppress(OSError):  # somebody else was quicker
            making.rename(folder)
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _for_debians_python() -> list[str]:
    """Return what makes pip work for Debian's Python, which scripts/install uses, if another kind runs the tests."""
    ask = ["/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    return [] if version == f"{sys.version_info[0]}.{sys.version_info[1]}" else ["--python", "/usr/bin/python3"]


@pytest.fixture(scope="module")
def modem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedModem]:
    """Serve a modem to plug into the machine."""
    link = tmp_path_factory.mktemp("modem") / "tty"
    with SimulatedModem("quectel-ec25", cell_of("viettel"), link=link) as plugged_in:
        yield plugged_in


@pytest.fixture(scope="module")
def machine(wheels: Path, modem: SimulatedModem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot a machine with the repository, the wheels and a modem, and nothing of ours installed."""
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("NOT SHOWN: systemd-nspawn is missing; apt-get install systemd-container systemd-sysv")
    binds = [f"--bind-ro={ROOT}:{SOURCE}", f"--bind-ro={wheels}:/wheels", f"--bind={modem.tty}:/dev/ttyUSB0"]
    booted = Machine(tmp_path_factory.mktemp("machine"), binds)
    yield booted
    booted.close()


@pytest.fixture(scope="session")
def guide() -> Callable[..., str]:
    """Give `guide(*tags)`, which turns steps of our guides into a script for the machine."""
    return _guide


def _guide(*tags: str) -> str:
    """Return the blocks of our guides marked `<!-- tested: TAG -->`, in order, as one script for the machine."""
    text = "".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("install", "operations"))
    blocks = re.findall(r"<!-- tested: (\w+) -->\n```bash\n(.*?)```", text, re.DOTALL)
    script = "\n".join(block for tag, block in blocks if tag in tags)
    assert script, f"the guides have no block for {tags}"
    for theirs, here in {
        "probe.example.vn": "localhost",
        "203.0.113.10": "127.0.0.1",
        "scripts/install ": "scripts/install --wheels /wheels ",
    }.items():
        script = script.replace(theirs, here)
    return f"set -euo pipefail\n{script}"
