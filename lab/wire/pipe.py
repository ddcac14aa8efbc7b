"""A probe's way to the collector, for real and metered.

The broker with TLS, collector and responder are in one namespace, the agent's own publisher in another; between them is
a cable whose bytes are counted as IP packets. Nothing is offloaded: every segment goes out with headers of its own, as
it would over a modem.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from agent.publisher import Publisher
from base.broker import BrokerSettings, TlsSettings
from lab import configs, pki
from lab.netns import Run, veth
from lab.programs import Program
from lab.rundir import RunDir
from lab.servers import Mosquitto
from wire.status import LinkStatus, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.spool import Spool
    from lab.servers import TlsFiles

_CORE: Final = "198.18.0.1"
_PROBE: Final = "198.18.0.2"
_PORT: Final = 8883
_DEVICE: Final = "wan0"
_ETHERNET_BYTES: Final = 14
"""What the interface counts of each packet besides IP (linux/if_ether.h, ETH_HLEN)."""
_QUIET_S: Final = 0.12
"""Longer than a TCP acknowledgement is ever delayed for company (40 ms; RFC 9293 allows 500)."""
_PATIENCE_S: Final = 30.0
_USERS: Final = ("collector", "responder")


class PipeError(Exception):
    """A part of the pipe did not come up or did not answer; the text says which."""


class Pipe:
    """A context manager; raises NetworkError, ServerError, ProgramError, PkiError or PipeError."""

    def __init__(self, probe_id: str) -> None:
        self._probe_id = probe_id
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def folder(self) -> Path:
        """Where everything is written; gone at the end."""
        return self._run_dir.path

    def broker(self, user: str, keepalive_s: int) -> BrokerSettings:
        """Say how a user reaches the broker."""
        credentials = self.folder / f"{user}.credentials"
        credentials.touch(mode=0o600)
        credentials.write_text(f"{user}:secret-{user}\n")
        return BrokerSettings(
            host=_CORE,
            port=_PORT,
            credentials_file=credentials,
            tls=TlsSettings(ca_file=self._tls.ca_file),
            keepalive_s=keepalive_s,
        )

    @contextlib.contextmanager
    def publisher(self, spool: Spool, link: str, keepalive_s: int) -> Iterator[Publisher]:
        """Run the agent's publisher in the probe's namespace; inside, it is connected."""

        def status() -> Status:
            counts = spool.counts()
            return Status(
                probe_id=self._probe_id,
                online=True,
                site="tan-phong",
                agent_version="0.1.0",
                spool_id=spool.spool_id,
                spooled=counts.spooled,
                backlog=counts.waiting,
                links=(
                    LinkStatus(
                        name=link,
                        interface="wwan0",
                        operator="Viettel",
                        technology="lte",
                        rsrp_dbm=-97.0,
                        last_outcome="radio",
                    ),
                ),
            )

        made = Publisher(self.broker(self._probe_id, keepalive_s), self._probe_id, spool, status)
        with self.inside():
            made.start()  # its threads stay where they are started
        try:
            if not made.wait_until_connected(_PATIENCE_S):
                raise PipeError(f"the publisher did not reach the broker:\n{self.mosquitto.log_tail()}")
            yield made
        finally:
            made.stop(flush_s=0)

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Let this thread open sockets where the probe is."""
        return self._probe.inside()

    def at_the_core(self, command: list[str], timeout_s: float) -> str:
        """Run a command where the servers are."""
        return self._core.run(command, timeout_s=timeout_s)

    def start_at_the_core(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command where the servers are; it ends with the pipe at the latest."""
        return self._core.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def carried_bytes(self) -> int:
        """Read how many bytes of IP packets the probe has sent and received."""
        with self.inside():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        for line in lines:
            name, _, counts = line.strip().partition(":")
            if name == _DEVICE:
                numbers = [int(count) for count in counts.split()]  # proc(5): received first, then sent
                return numbers[0] + numbers[8] - _ETHERNET_BYTES * (numbers[1] + numbers[9])
        raise PipeError(f"{_DEVICE} is gone")

    def settled_bytes(self) -> int:
        """Wait until nothing travels any more, and read the counters."""
        before, deadline_s = self.carried_bytes(), time.monotonic() + _PATIENCE_S
        while True:
            time.sleep(_QUIET_S)
            now = self.carried_bytes()
            if now == before:
                return now
            if time.monotonic() > deadline_s:
                raise PipeError("the cable does not fall silent")
            before = now

    def _set_up(self) -> None:
        self._run_dir = self._closing.enter_context(RunDir())
        world = self._closing.enter_context(Run())
        self._core, self._probe = world.namespace("core"), world.namespace("probe")
        veth(self._core, "lan0", self._probe, _DEVICE)
        for end, device, address in ((self._core, "lan0", _CORE), (self._probe, _DEVICE, _PROBE)):
            end.ip(f"addr add {address}/30 dev {device}", f"link set dev {device} gso_max_segs 1")
        self._tls: TlsFiles = pki.make_server_certificate(self._run_dir.folder("pki"), [_CORE])
        self.mosquitto = Mosquitto(
            self._run_dir.folder("mosquitto"),
            users={user: f"secret-{user}" for user in (*_USERS, self._probe_id)},
            tls=self._tls,
            extra=["set_tcp_nodelay true"],
            host=_CORE,
            port=_PORT,
            prefix=("ip", "netns", "exec", self._core.name),
        )
        self._closing.enter_context(self.mosquitto)
        place = configs.Place(_CORE, _PORT, self._tls.ca_file, iperf_port=5201, irtt_port=2112)
        for user, module, document in (
            (
                "collector",
                "collector.cli",
                configs.collector(place, self._run_dir.folder("collector"), influx_url=None),
            ),
            ("responder", "responder.cli", configs.responder(place, self._run_dir.folder("responder"))),
        ):
            folder = self._run_dir.folder(user)
            config = configs.write(folder, user, document, user=user, password=f"secret-{user}")
            program = Program(user, module, config, prefix=("ip", "netns", "exec", self._core.name))
            self._closing.callback(program.stop)
            program.start()
            self._wait_for(program, "listening" if user == "collector" else "connected")

    def _wait_for(self, program: Program, word: str) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        while word not in (program.log_file.read_text() if program.log_file.exists() else ""):
            program.check()
            if time.monotonic() > deadline_s:
                raise PipeError(f"{program.name} is not ready:\n{program.log_tail()}")
            time.sleep(0.05)
