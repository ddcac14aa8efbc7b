"""Who holds a modem's ports, so that there are never two readers on one: a second reader eats bytes of the first.

ModemManager opens its ports with TIOCEXCL, which does not keep root out, and takes no lock that we could see. So it is
asked for (`mmcli`), and /proc/<pid>/fd is looked through; an unprivileged user sees there only what is his own.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.modem import hilink
from agent.modem.manager import MmModem, modems_of_manager

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.modem.discovery import FoundModem
    from agent.modem.manager import Ask

RULES_FILE: Final = "/etc/udev/rules.d/78-mm-probefleet-ignore.rules"
_MANAGER: Final = "ModemManager"


class Holder(msgspec.Struct, frozen=True):
    """A process that has a port open."""

    pid: int
    program: str


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who drives a modem: ModemManager, if it lists it, and the holders of each port by device node."""

    manager: MmModem | None = None
    holders: dict[str, tuple[Holder, ...]] = {}

    def of_port(self, device: str) -> str:
        """Say in a few words who holds a port."""
        held = [f"{holder.program} (process {holder.pid})" for holder in self.holders.get(device, ())]
        if self.manager is not None and Path(device).name in self.manager.ports_in_use:
            held = held or [_MANAGER]
        return ", ".join(held) or "nobody"


def holders(devices: Iterable[str], proc_root: Path = Path("/proc")) -> dict[str, tuple[Holder, ...]]:
    """Find who has these device nodes open, ourselves left out. What this user may not see is not found."""
    wanted = {os.path.realpath(device): device for device in devices}
    found: dict[str, list[Holder]] = {}
    for process in _processes(proc_root):
        for target in _open_files(process):
            if target in wanted:
                found.setdefault(wanted[target], []).append(Holder(int(process.name), _program(process)))
    return {device: tuple(dict.fromkeys(held)) for device, held in found.items()}


def manager_runs(proc_root: Path = Path("/proc")) -> bool:
    """Whether ModemManager runs on this machine (its name in /proc is cut to 15 characters; it has 12)."""
    return any(_program(process) == _MANAGER for process in _processes(proc_root))


def owner_of(modem: FoundModem, ask: Ask | None = None, proc_root: Path = Path("/proc")) -> Owner:
    """Find who drives a modem."""
    mine = [one for one in modems_of_manager(ask) if one.usb_path == modem.usb_path]
    return Owner(manager=mine[0] if mine else None, holders=holders([port.device for port in modem.ports], proc_root))


def owner_lines(modem: FoundModem, owner: Owner) -> list[str]:
    """Say who holds each port, and what to do where ModemManager owns the modem or nobody can reach it by AT."""
    lines = [f"{modem.usb_path:<10} {port.device:<16} held by {owner.of_port(port.device)}" for port in modem.ports]
    if owner.manager is not None:
        lines.append(
            f"{modem.usb_path:<10} ModemManager owns it, and is asked for radio figures; to read it by AT instead: "
            f"probe-agent modem ignore-rule --usb-path {modem.usb_path}"
        )
    if (modem.vendor_id, modem.product_id) in hilink.PRODUCTS:
        lines.append(f"{modem.usb_path:<10} a HiLink stick: set the link's `modem: {hilink.DEFAULT_ADDRESS}`")
    return lines


def ignore_rule(modem: FoundModem, *, only_port: int | None = None) -> str:
    """Write the udev rule that keeps ModemManager off a modem, or off one interface of it, and how to install it.

    The rule's number stands after ModemManager's own 77-mm-*.rules (its documentation, "Ignoring devices").
    """
    match = f'ATTRS{{idVendor}}=="{modem.vendor_id}", ATTRS{{idProduct}}=="{modem.product_id}"'
    if only_port is None:
        lines = [f'ACTION!="remove", SUBSYSTEMS=="usb", {match}, ENV{{ID_MM_DEVICE_IGNORE}}="1"']
    else:
        # Two parents' attributes cannot stand in one rule: the interface is noted first, the device is matched after.
        usb = 'ACTION!="remove", SUBSYSTEMS=="usb"'
        lines = [
            f'{usb}, ATTRS{{bInterfaceNumber}}=="?*", ENV{{.PROBEFLEET_IF}}="$attr{{bInterfaceNumber}}"',
            f'{usb}, {match}, ENV{{.PROBEFLEET_IF}}=="{only_port:02x}", ENV{{ID_MM_PORT_IGNORE}}="1"',
        ]
    head = f"# {RULES_FILE}: ModemManager leaves {modem.device} ({modem.vendor_id}:{modem.product_id}) to probefleet"
    after = "# then: sudo udevadm control --reload && sudo udevadm trigger && sudo systemctl restart ModemManager"
    return "\n".join([head, *lines, after])


def _processes(proc_root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for entry in proc_root.iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                yield entry


def _open_files(process: Path) -> Iterator[str]:
    """Yield what a process has open; it may end, or be somebody else's, at any moment."""
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(link.readlink())


def _program(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
