"""Network namespaces as objects that clean up after themselves, whatever happens to their owner.

A `Run` owns every namespace it makes. Their names say whose they are, `pf-<pid>.<start>.<n>-<label>` (the owner's pid,
its start time in clock ticks, the n-th run of that process), so nothing need be recorded to tell the leftovers of a
killed owner from the namespaces of a living one: `Run()` removes the leftovers before it begins.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

log = logging.getLogger(__name__)

_NAMES: Final = Path("/run/netns")
_NAME = re.compile(r"pf-(?P<pid>\d+)\.(?P<start>\d+)\.\d+-(?P<label>.+)")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_PATIENCE_S: Final = 3.0  # what a process gets to end by itself before it is killed
_libc = ctypes.CDLL(None, use_errno=True)
_run_numbers = itertools.count(1)


class NetworkError(Exception):
    """A namespace, a device or a route could not be made; the text says which and why."""


class Namespace:
    """One network namespace, made by `Run.namespace`. Its loopback is up, IPv6 is off on every device but that one."""

    def __init__(self, label: str, name: str) -> None:
        self.label = label
        self.name = name
        self._started: list[subprocess.Popen[Any]] = []

    def ip(self, *lines: str) -> None:
        """Carry out `ip` commands in here, in one go: `ip("link set eth0 up", "route add default via 198.18.0.1")`."""
        _tool(["ip", "-n", self.name, "-batch", "-"], where=self.name, script="\n".join(lines))

    def tc(self, *arguments: str) -> None:
        """Carry out one `tc` command in here."""
        _tool(["tc", "-n", self.name, *arguments], where=self.name)

    def sysctl(self, **values: int | str) -> None:
        """Set kernel parameters; a double underscore stands for a dot: `sysctl(net__ipv4__ip_forward=1)`."""
        settings = [f"{name.replace('__', '/')}={value}" for name, value in values.items()]
        _tool(["ip", "netns", "exec", self.name, "sysctl", "-qw", *settings], where=self.name)

    def run(self, command: Sequence[str], *, timeout_s: float = 30, check: bool = True) -> str:
        """Run a command to its end and return what it printed; raise NetworkError if it fails or overruns."""
        return _tool(["ip", "netns", "exec", self.name, *command], where=self.name, timeout_s=timeout_s, check=check)

    def popen(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        text: bool = False,
    ) -> subprocess.Popen[Any]:
        """Start a process in here, in a process group of its own (a Ctrl-C reaches its owner alone).

        It sees this namespace in /sys too (`ip netns exec`), and has ended at the latest when the Run has.
        """
        process = subprocess.Popen(  # the caller or close() waits for it
            ["ip", "netns", "exec", self.name, *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            text=text,
            process_group=0,
        )
        self._started.append(process)
        return process

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move the calling thread in here and back: sockets opened meanwhile belong to this namespace for good.

        Sockets only: /sys and /proc/net go on showing the process's own namespace (use `popen` for programs that read
        them). Not to be held across an await or a yield to other code of the same thread.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(_NAMES / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)

    def carrier(self, device: str) -> bool:
        """Whether the device is up and its far end answers (false: NO-CARRIER, the cable is out)."""
        return "LOWER_UP" in _tool(["ip", "-n", self.name, "link", "show", "dev", device], where=self.name)

    def close(self) -> None:
        """End what runs in here, by pid, and remove the namespace with its devices. Never raises; can be repeated."""
        for process in self._started:
            if process.poll() is None:
                _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        for process in self._started:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("%s: process %d did not end when asked; killed", self.name, process.pid)
            _signal_group(process.pid, signal.SIGKILL)  # and whatever children it left behind
            process.wait()
        self._started.clear()
        _remove(self.name)


class Run:
    """Everything one lab run makes in the kernel; a context manager whose end removes all of it.

    Raise NetworkError at once, in one line, where namespaces cannot be made (not root).
    """

    def __init__(self) -> None:
        require_root()
        sweep()
        pid = os.getpid()
        self._prefix = f"pf-{pid}.{_start_ticks(pid)}.{next(_run_numbers)}-"
        self._namespaces: dict[str, Namespace] = {}
        self._closing = contextlib.ExitStack()

    def namespace(self, label: str) -> Namespace:
        """Make a namespace; labels are unique within a run (letters, digits, `._-`)."""
        if not _LABEL.fullmatch(label):
            raise NetworkError(f"{label!r} cannot name a namespace; use up to 64 letters, digits, `.`, `_`, `-`")
        made = Namespace(label, self._prefix + label)
        if label in self._namespaces:
            raise NetworkError(f"this run has a namespace {label!r} already")
        self._namespaces[label] = made  # before it exists: an interrupt in between must not leave it behind
        self.callback(made.close)
        _tool(["ip", "netns", "add", made.name], where=made.name)
        made.ip("link set lo up")
        made.sysctl(net__ipv6__conf__default__disable_ipv6=1)
        return made

    @property
    def namespaces(self) -> list[Namespace]:
        """Those that stand now, in the order they were made."""
        return list(self._namespaces.values())

    def callback(self, action: Callable[[], object]) -> None:
        """Have something done at the end, before the namespaces made so far are removed."""
        self._closing.callback(action)

    def close(self) -> None:
        """Remove every namespace of this run, newest first; can be repeated."""
        self._closing.close()
        self._namespaces.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def veth(one: Namespace, device: str, other: Namespace, other_device: str) -> None:
    """Lay a cable between two namespaces, both ends up. Device names: at most 15 characters."""
    one.ip(f"link add name {device} type veth peer name {other_device} netns {other.name}", f"link set dev {device} up")
    other.ip(f"link set dev {other_device} up")


def require_root() -> None:
    """Raise NetworkError unless this process may make namespaces."""
    if os.geteuid() != 0:
        raise NetworkError("network namespaces need root: run it with sudo")


def sweep() -> list[str]:
    """Remove the namespaces whose owner is dead, with the processes still in them; return their names."""
    if not _NAMES.is_dir():
        return []
    orphans = [path.name for path in sorted(_NAMES.iterdir()) if _is_orphan(path.name)]
    for name in orphans:
        log.info("removing %s, left behind by a run that was killed", name)
        _remove(name)
    return orphans


def _is_orphan(name: str) -> bool:
    match = _NAME.fullmatch(name)
    return match is not None and _start_ticks(int(match["pid"])) != int(match["start"])


def _start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot (proc(5): field 22 of stat); None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def _remove(name: str) -> None:
    """Kill what still runs in the namespace (daemons that left their process group) and unmount its name."""
    for pid in _pids(name):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    done = subprocess.run(["ip", "netns", "delete", name], capture_output=True, text=True, check=False)
    if done.returncode and (_NAMES / name).exists():
        log.warning("%s could not be removed: %s", name, done.stderr.strip())


def _pids(name: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _enter(namespace_fd: int) -> None:
    """setns(2) for the calling thread; os.setns came with Python 3.12."""
    if _libc.setns(namespace_fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise NetworkError(f"cannot enter the namespace: {os.strerror(number)}")


def _tool(
    command: Sequence[str], *, where: str, script: str | None = None, timeout_s: float = 30, check: bool = True
) -> str:
    """Run one of iproute2's tools, or a command through it; raise NetworkError with its own complaint."""
    text = script if script is not None else " ".join(command)
    try:
        done = subprocess.run(
            command, input=script, capture_output=True, text=True, timeout=timeout_s, check=False, process_group=0
        )
    except FileNotFoundError as error:
        raise NetworkError(f"{command[0]} is not installed: apt install iproute2") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"{where}: no end of `{text}` in {timeout_s:g} s") from error
    if check and done.returncode:
        raise NetworkError(f"{where}: `{text}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
