"""The first root of the virtual machine, in memory: loads the disk's drivers and hands over to the disk. Pure.

An archive in the kernel's `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_FOLDER, _PROGRAM, _FILE = 0o040755, 0o100755, 0o100644
_INIT: Final = """\
#!/bin/busybox sh
for module in {modules}; do /bin/busybox insmod /$module 2>/dev/null; done
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /sbin/init
"""


def archive(busybox: bytes, modules: Mapping[str, bytes]) -> bytes:
    """Pack busybox and the kernel modules (name to content, in the order in which to load them)."""
    init = _INIT.format(modules=" ".join(modules))
    return b"".join(
        (
            *(_entry(name, _FOLDER) for name in ("bin", "dev", "root")),
            _entry("bin/busybox", _PROGRAM, busybox),
            _entry("init", _PROGRAM, init.encode("ascii")),
            *(_entry(name, _FILE, content) for name, content in modules.items()),
            _entry("TRAILER!!!", 0),
        )
    )


def _entry(name: str, mode: int, content: bytes = b"") -> bytes:
    named = name.encode("ascii") + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device and node major and minor, length of name, checksum
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(named), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + named
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
