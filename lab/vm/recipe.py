"""What is in the disk of the virtual machine: Debian 12 for x86-64 with its own kernel, and one unit that runs a job.

Whatever of this file changes, the disk is built anew.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
DISK_MB: Final = 1500
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "udev", "kmod", "dbus", "procps", "iproute2", "busybox-static"),
    *("python3", "ppp", "iperf3", "libiperf0", "modemmanager"),
)
NO_FILES_OF: Final = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
NO_MODULES_OF: Final = ("sound", "drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/net/wireless")
INITRD_MODULES: Final = ("virtio_pci", "virtio_blk", "ext4")

MASKED: Final = (
    *("getty@.service", "serial-getty@.service", "getty.target", "systemd-logind.service"),
    *("systemd-user-sessions.service", "systemd-timesyncd.service", "systemd-random-seed.service"),
    *("systemd-pstore.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service"),
    *("systemd-update-utmp.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@fuse.service", "modprobe@loop.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service"),
)
# Installed, but for jobs to start when they want it.
DISABLED: Final = ("ModemManager.service",)

# Run by mmdebstrap with the new root; the sources of that root name the newest kernel. Its modules go where /lib
# points to: unpacked into the root itself, they would take the place of that link.
KERNEL_HOOK: Final = """\
set -eu
root=$1 out=$2
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
cd "$out"
package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: *\\(linux-image-[0-9].*\\)/\\1/p' | head -n 1)
apt-get download -qq -o APT::Sandbox::User=root "$package"
dpkg -x "$package"_*.deb unpacked
mv unpacked/boot/vmlinuz-* kernel
mv unpacked/lib/modules "$root/usr/lib/modules"
rm -r unpacked "$package"_*.deb
"""

JOB_UNIT: Final = """\
[Unit]
Description=The job that came on the second disk
After=basic.target dbus.service systemd-udev-trigger.service
[Service]
Type=exec
ExecStart=/usr/local/sbin/run-job
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
[Install]
WantedBy=multi-user.target
"""

# The job is a tar on the second disk, with an executable `run`; what that leaves in `results` goes to the third.
JOB_SCRIPT: Final = """\
#!/bin/sh
mkdir -p /job/results
cd /job && tar -x -f /dev/vdb && ./run
echo $? >/job/results/exit-status
tar -c -f /dev/vdc -C /job/results .
systemctl poweroff -ff
"""


def digest() -> str:
    """Name this recipe: a hash of everything that decides on the disk."""
    folder = Path(__file__).parent
    parts = b"".join((folder / name).read_bytes() for name in ("recipe.py", "image.py", "initrd.py"))
    return hashlib.sha256(parts).hexdigest()[:16]
