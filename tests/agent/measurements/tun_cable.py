"""A point-to-point cable: two TUN devices, and what goes into one comes out of the other. Ends with its owner.

Run in the namespace of the first; the second is moved to where it belongs. argv: the two names. Says `ready`.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000  # linux/if_tun.h


def device(name: str) -> int:
    number = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(number, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return number


def main() -> None:
    one, other = (device(name) for name in sys.argv[1:3])
    print("ready", flush=True)  # noqa: T201  # the owner waits for it
    while True:
        for ready in select.select([one, other], [], [])[0]:
            try:
                os.write(other if ready == one else one, os.read(ready, 65536))
            except OSError:
                continue  # the other end is down: lost, as on any cable


if __name__ == "__main__":
    main()
