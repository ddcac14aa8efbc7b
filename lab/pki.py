"""A certificate authority for one run, made with Debian's `openssl` command: it signs the broker's certificate."""

from __future__ import annotations

import ipaddress
import subprocess
from typing import TYPE_CHECKING, Final

from lab.servers import TlsFiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DAYS: Final = "30"
_NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


class PkiError(Exception):
    """No certificate could be made; the text says why."""


def make_server_certificate(folder: Path, names: Sequence[str]) -> TlsFiles:
    """Make an authority and a certificate for a server known by these addresses or host names; raise PkiError.

    Keys are readable by their owner alone. The authority's key stays in the folder with the rest: this is a lab.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    certificate, key = folder / "server.pem", folder / "server.key"
    _openssl(
        *("req", "-x509", *_NEW_KEY, "-keyout", ca_key, "-out", ca, "-days", _DAYS),
        *("-subj", "/CN=probe-lab authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    _openssl(
        *("req", "-x509", *_NEW_KEY, "-keyout", key, "-out", certificate, "-days", _DAYS),
        *("-CA", ca, "-CAkey", ca_key, "-subj", "/CN=probe-lab broker"),
        *("-addext", f"subjectAltName={','.join(_alternative(name) for name in names)}"),
        *("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"),
    )
    return TlsFiles(ca_file=ca, cert_file=certificate, key_file=key)


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _openssl(*arguments: str | Path) -> None:
    try:
        done = subprocess.run(
            ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, umask=0o077
        )
    except FileNotFoundError as error:
        raise PkiError("openssl is not installed; run: apt-get install openssl") from error
    if done.returncode:
        raise PkiError(f"openssl {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
