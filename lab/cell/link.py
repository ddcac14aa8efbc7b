"""One emulated link and its knobs.

A namespace of its own stands between the probe's device and the core:

    probe  wwan0 ═ ue0 ─ air0 ┄ relay ┄ air1 ─ up0 ═ its port  core
                   tbf: download          tbf: upload

A packet that comes in by either cable is sent to a TUN device by a policy rule, crosses the relay (delay, jitter, loss,
trace), comes out of the other TUN device and leaves by the other cable through its shaper.
"""

from __future__ import annotations

import logging
import socket
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from lab.cell import orders, shaper, trace

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from lab.netns import Namespace

log = logging.getLogger(__name__)

_ANSWER_S: Final = 15.0  # reading a long trace on a busy machine takes a second or two
_SHAPED: Final[dict[orders.Direction, str]] = {"down": "ue0", "up": "up0"}
TUN_QUEUE_PACKETS: Final = 5000


class CellError(Exception):
    """The link cannot do what was asked, or its relay is gone; the text says which."""


class Cell:
    """A link between a probe's device and the core; made by `Probe.attach_cell`, removed with its Run.

    Not thread-safe. Every knob is in force when its method returns; CellError and ValueError say why one is not.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        device: str,
        address: str,
        down_mbps: float,
        up_mbps: float,
        rtt_ms: float,
        jitter_ms: float = 0.0,
        down_loss_percent: float = 0.0,
        up_loss_percent: float = 0.0,
    ) -> None:
        self.namespace = namespace
        self.device = device  # its name in the probe's namespace
        self.address = address  # of that device
        self.down_mbps = self.up_mbps = 0.0  # of the shapers, as last set; a replay puts them aside
        self._delay_ms = (rtt_ms, jitter_ms)
        self._loss_percent = (down_loss_percent, up_loss_percent)
        self._control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_ANSWER_S)
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 # as long as the relay; close() closes it
        try:
            self._relay = self._start(far_end)
            self.set_rate(down_mbps, up_mbps)
            self._impair(self._delay_ms, self._loss_percent)
        except BaseException:
            self.close()
            raise
        finally:
            far_end.close()

    def _start(self, far_end: socket.socket) -> subprocess.Popen[Any]:
        command = [sys.executable, "-m", "lab.cell.relay", "air0", "air1"]
        return self.namespace.popen(command, stdin=far_end.fileno(), stdout=self._complaints, stderr=self._complaints)

    @property
    def relay_pid(self) -> int:
        """The relay's process id."""
        return self._relay.pid

    def goodput_mbps(self, direction: orders.Direction) -> float:
        """Say what the shaper lets through as TCP payload: rate x 1448 / 1514 (see `shaper.goodput_mbps`)."""
        return shaper.goodput_mbps(self.down_mbps if direction == "down" else self.up_mbps)

    def set_rate(self, down_mbps: float, up_mbps: float) -> None:
        """Shape both directions to constant rates; ends a replay."""
        wanted: dict[orders.Direction, float] = {"down": down_mbps, "up": up_mbps}
        shapers = {
            direction: shaper.tbf(mbps) for direction, mbps in wanted.items()
        }  # both are valid, or neither is set
        for direction, arguments in shapers.items():
            self.namespace.tc("qdisc", "replace", "dev", _SHAPED[direction], "root", *arguments)
            self._order(orders.Replay(direction, None))
        self.down_mbps, self.up_mbps = down_mbps, up_mbps

    def set_delay(self, rtt_ms: float, jitter_ms: float = 0.0) -> None:
        """Hold every packet for half of `rtt_ms` and, drawn evenly for each, up to `jitter_ms` more; none overtakes."""
        self._impair((rtt_ms, jitter_ms), self._loss_percent)

    def set_loss(self, down_percent: float, up_percent: float) -> None:
        """Lose each packet of a direction with this probability, in percent, independently of the others."""
        self._impair(self._delay_ms, (down_percent, up_percent))

    def replay(
        self, *, down: Path | None = None, up: Path | None = None, scale: float = 1.0, queue_bytes: int = 1_000_000
    ) -> None:
        """Let packets through by Mahimahi traces, `scale` times as fast, from their beginning and over and over.

        A direction without a trace keeps its shaper. `set_rate` ends it. TraceError if a file is not a trace.
        """
        files: dict[orders.Direction, Path | None] = {"down": down, "up": up}
        for path in files.values():
            if path is not None:
                trace.read(path, scale)  # refuse before anything changes
        for direction, path in files.items():
            if path is not None:
                self._order(orders.Replay(direction, str(path.absolute()), scale, queue_bytes))
                self.namespace.tc("qdisc", "replace", "dev", _SHAPED[direction], "root", "pfifo", "limit", "10000")

    def outage(self, for_s: float) -> None:
        """Radio silence from now on: packets vanish, the carrier stays. Returns at once; 0 ends it early."""
        self._order(orders.Silence(for_s))

    def cut(self) -> None:
        """Pull the cable: the probe's device loses its carrier, what is on the way is lost."""
        self.namespace.ip("link set ue0 down")

    def restore(self) -> None:
        """Plug the cable in again."""
        self.namespace.ip("link set ue0 up")

    def report(self) -> orders.Done:
        """How much has crossed, how much was lost, and the CPU time the relay has used."""
        return self._order(orders.Report())

    def close(self) -> None:
        """End the relay. Can be repeated; the namespace is its Run's to remove."""
        self._control.close()
        self._complaints.close()

    def _impair(self, delay_ms: tuple[float, float], loss_percent: tuple[float, float]) -> None:
        rtt_ms, jitter_ms = delay_ms
        down = orders.Impair("down", rtt_ms / 2e3, jitter_ms / 1e3, loss_percent[0])
        up = orders.Impair("up", rtt_ms / 2e3, jitter_ms / 1e3, loss_percent[1])
        for order in (down, up):  # both are possible, or neither is sent
            try:
                orders.decode_order(orders.encode(order))
            except msgspec.DecodeError as error:
                raise CellError(f"{self.namespace.name}: {error}") from error
        self._order(down)
        self._order(up)
        self._delay_ms, self._loss_percent = delay_ms, loss_percent

    def _order(self, order: orders.Order) -> orders.Done:
        try:
            self._control.send(orders.encode(order))
            answer: orders.Answer = orders.decode_answer(self._control.recv(orders.MOST_BYTES))
        except TimeoutError as error:
            self.close()  # a late answer must not pass for the answer to the next order
            raise CellError(f"{self.namespace.name}: the relay gave no answer in {_ANSWER_S:g} s") from error
        except (OSError, msgspec.DecodeError) as error:
            raise CellError(f"{self.namespace.name}: the relay is gone: {self._last_words() or error}") from error
        if isinstance(answer, orders.Refused):
            raise CellError(f"{self.namespace.name}: {answer.why}")
        return answer

    def _last_words(self) -> str:
        """Give the last line of what the relay said on its way out, if it said anything."""
        if self._complaints.closed:
            return "it was closed"
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
