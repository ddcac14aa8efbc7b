"""A USB serial device of our own making: a configfs gadget on the dummy host controller, its function in user space.

The same kernel sees it come by its USB bus like any other device. FunctionFS (linux/usb/functionfs.h) and not the
kernel's serial function: that one refuses the control request by which a host raises DTR, and pyserial gives up then.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_GADGETS: Final = Path("/sys/kernel/config/usb_gadget")
_CONTROLLERS: Final = Path("/sys/class/udc")
_MODULES: Final = ("dummy_hcd", "libcomposite", "usb_f_fs")

# linux/usb/functionfs.h
_DESCRIPTORS_V2: Final = 3
_STRINGS: Final = 2
_HAS_FULL_AND_HIGH_SPEED: Final = 1 | 2
_EVENT: Final = struct.Struct("<BBHHHBxxx")  # bRequestType, bRequest, wValue, wIndex, wLength, type
_DISABLE, _SETUP = 3, 4
# linux/usb/ch9.h and cdc.h
_INTERFACE, _ENDPOINT, _BULK, _VENDOR_CLASS = 4, 5, 2, 0xFF
_CLASS_REQUEST_TO_INTERFACE: Final = 0x21
_SET_CONTROL_LINE_STATE: Final = 0x22
_DTR: Final = 1


class UsbIdentity(NamedTuple):
    """What a device says of itself; the identifiers are four hexadecimal digits."""

    vendor_id: str
    product_id: str
    manufacturer: str
    product: str
    serial_ports: int


QUECTEL_EC25: Final = UsbIdentity("2c7c", "0125", "Quectel", "EC25", 4)


class Gadget:
    """One device with `serial_ports` vendor-specific interfaces of two bulk endpoints, made unplugged.

    `on_dtr` is told, by interface number, whenever the host raises or drops DTR, in a thread of the gadget's own; all
    are dropped when the device leaves the bus. Raise OSError, or CalledProcessError, where the kernel cannot make it.
    """

    def __init__(self, name: str, identity: UsbIdentity, on_dtr: Callable[[int, bool], None]) -> None:
        self._on_dtr = on_dtr
        self._ports = identity.serial_ports
        subprocess.run(["modprobe", "-a", *_MODULES], check=True)
        self._device = _GADGETS / name
        strings, configuration = self._device / "strings/0x409", self._device / "configs/c.1"  # 0x409: English
        function = self._device / f"functions/ffs.{name}"
        for folder in (self._device, strings, configuration, function):
            folder.mkdir()
        for file, value in (
            (self._device / "idVendor", f"0x{identity.vendor_id}"),
            (self._device / "idProduct", f"0x{identity.product_id}"),
            (strings / "manufacturer", identity.manufacturer),
            (strings / "product", identity.product),
        ):
            file.write_text(value, encoding="ascii")
        self._mount = Path(f"/run/usb-{name}")
        self._mount.mkdir()
        subprocess.run(["mount", "-t", "functionfs", name, self._mount], check=True)
        self._ep0 = os.open(self._mount / "ep0", os.O_RDWR)
        os.write(self._ep0, _descriptors(identity.serial_ports))
        os.write(self._ep0, struct.pack("<IIII", _STRINGS, 16, 0, 0))
        link = configuration / function.name
        link.symlink_to(function)
        self._remove_in_order = (link, configuration, function, strings, self._device)
        self._controller = next(_CONTROLLERS.iterdir()).name
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._answer, name=f"control of {name}", daemon=True)
        self._thread.start()

    def endpoints(self, interface: int) -> tuple[Path, Path]:
        """Name an interface's two files: what goes to the host is written to one, what comes is read from the other."""
        return self._mount / f"ep{2 * interface + 1}", self._mount / f"ep{2 * interface + 2}"

    def plug(self) -> None:
        """Put it on the bus. Returns at once; the bus finds it, and udev names its ports, a moment later."""
        (self._device / "UDC").write_text(self._controller, encoding="ascii")

    def unplug(self) -> None:
        """Take it off the bus: every open port of it is hung up on. Does nothing if it is off."""
        if (self._device / "UDC").read_text(encoding="ascii").strip():
            (self._device / "UDC").write_text("\n", encoding="ascii")

    def remove(self) -> None:
        """Unplug it and have the kernel forget it; its endpoints must be closed."""
        self.unplug()
        os.write(self._wake_write, b"!")
        self._thread.join()
        for descriptor in (self._ep0, self._wake_read, self._wake_write):
            os.close(descriptor)
        subprocess.run(["umount", self._mount], check=True)
        self._mount.rmdir()
        for entry in self._remove_in_order:
            entry.unlink() if entry.is_symlink() else entry.rmdir()

    def _answer(self) -> None:
        """Take the events of endpoint 0 until `remove`."""
        while self._wake_read not in select.select([self._ep0, self._wake_read], [], [])[0]:
            events = os.read(self._ep0, 4 * _EVENT.size)
            for request_type, request, value, index, _, kind in _EVENT.iter_unpack(events):
                if kind == _SETUP:
                    self._answer_request(request_type, request, value, index)
                elif kind == _DISABLE:
                    for number in range(self._ports):
                        self._on_dtr(number, False)  # noqa: FBT003  # a level, as the host sends it

    def _answer_request(self, request_type: int, request: int, value: int, interface: int) -> None:
        """Acknowledge DTR by reading nothing; stall all else, by turning the direction round."""
        with contextlib.suppress(OSError):  # a stall is reported as an error, and the host may have given up
            if (request_type, request) == (_CLASS_REQUEST_TO_INTERFACE, _SET_CONTROL_LINE_STATE):
                os.read(self._ep0, 0)
                self._on_dtr(interface, bool(value & _DTR))
            elif request_type & 0x80:
                os.read(self._ep0, 0)
            else:
                os.write(self._ep0, b"")


def _descriptors(ports: int) -> bytes:
    """Interfaces as the module's: vendor class, one bulk endpoint each way; packets of 64 and of 512 bytes."""
    speeds = []
    for packet_bytes in (64, 512):
        for number in range(ports):
            speeds.append(struct.pack("<BBBBBBBBB", 9, _INTERFACE, number, 0, 2, _VENDOR_CLASS, 0, 0, 0))
            speeds += [
                struct.pack("<BBBBHB", 7, _ENDPOINT, address | number + 1, _BULK, packet_bytes, 0)
                for address in (0x80, 0)
            ]
    body = struct.pack("<II", 3 * ports, 3 * ports) + b"".join(speeds)
    return struct.pack("<III", _DESCRIPTORS_V2, 12 + len(body), _HAS_FULL_AND_HIGH_SPEED) + body
