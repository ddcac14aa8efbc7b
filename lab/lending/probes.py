"""Simulated probes that borrow servers as the agent does (`agent.lease`), and run real iperf3 clients against them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.clock import SystemClock
from agent.lease import Borrowed, Habits, Wish, borrow
from base.broker import BrokerSettings, make_client
from lab.programs import Program
from wire import codec, topics
from wire.leases import LeaseReply, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE_S: Final = 20.0
RESPONDER_ID: Final = "lab"
_numbers = itertools.count(1)


class LendingError(Exception):
    """A part of the bench did not work; the text says which."""


class LabProbe:
    """One probe's connection to the broker; an `agent.lease.Lender`."""

    def __init__(self, name: str, broker: BrokerSettings, *, asks: str = RESPONDER_ID) -> None:
        """Connect and subscribe, in the network namespace of the calling thread; raise LendingError."""
        self.name = name
        self.habits = Habits([asks])
        self._answers: dict[str, queue.SimpleQueue[LeaseReply]] = {}
        self._subscribed: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._client = make_client(broker, client_id=name, clean_session=True)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda _client, _data, mid, *_: self._subscribed.put(mid)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        self._client.subscribe(topics.topic(name, topics.LEASE_GRANT), qos=1)
        try:
            self._subscribed.get(timeout=PATIENCE_S)
        except queue.Empty as error:
            raise LendingError(f"{name}: the broker does not answer") from error

    @contextlib.contextmanager
    def ask(self, wish: Wish) -> Iterator[Callable[[float], LeaseReply | None]]:
        """Ask once; inside, each call gives the next answer, or None if none comes within so many seconds."""
        request = LeaseRequest(request_id=f"{self.name}-{next(_numbers)}", probe_id=self.name, **wish._asdict())
        answers = self._answers[request.request_id] = queue.SimpleQueue[LeaseReply]()
        self._client.publish(topics.topic(self.name, topics.LEASE_REQUEST), codec.encode(request), qos=1)

        def next_answer(timeout_s: float) -> LeaseReply | None:
            try:
                return answers.get(timeout=timeout_s)
            except queue.Empty:
                return None

        try:
            yield next_answer
        finally:
            del self._answers[request.request_id]

    def borrow(self, wish: Wish) -> Borrowed:
        """Borrow as the agent does; raise agent.measurements.base.MeasurementFailed."""
        return borrow(self, SystemClock(), wish)

    def leave(self) -> None:
        """Say goodbye to the broker; `close` waits until it is done, which takes up to a second."""
        self._client.disconnect()

    def close(self) -> None:
        """Leave the broker."""
        self.leave()
        self._client.loop_stop()

    def _on_message(self, _client: Any, _data: object, message: Any) -> None:  # noqa: ANN401  # paho has its own doors
        reply = codec.decode_lease_reply(bytes(message.payload))
        if (answers := self._answers.get(reply.request_id)) is not None:
            answers.put(reply)


def responder(folder: Path, broker_port: int, prefix: Sequence[str] = (), **settings: object) -> Program:
    """Plan a real responder on 127.0.0.1 that keeps everything in `folder`."""
    document: dict[str, object] = {
        "responder_id": RESPONDER_ID,
        "broker": {"host": "127.0.0.1", "port": broker_port, "tls": None},
        "advertise_host": "127.0.0.1",
        "irtt": None,
        "status_file": str(folder / "status.json"),
        **settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "responder.yaml"
    config.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return Program("responder", "responder.cli", config, prefix=prefix)


def wait_until_serving(program: Program, probe: LabProbe, *, name: str | None = None) -> None:
    """Wait until the responder (of that name) answers; raise LendingError or lab.programs.ProgramError."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        program.check()
        with probe.ask(Wish("hello", transfers=0, length_s=1, responder=name)) as next_answer:
            if next_answer(0.5) is not None:
                return
    raise LendingError(f"the responder does not answer:\n{program.log_tail()}")


def status_since(program: Program, since_s: float) -> dict[str, Any]:
    """Wait until the responder has written about itself after that time; raise LendingError or ProgramError."""
    path, why = program.config.parent / "status.json", "nothing new"
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        program.check()
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if datetime.fromisoformat(found["at"]).timestamp() > since_s:
                return found
        except OSError as error:
            why = str(error)
        time.sleep(0.1)
    raise LendingError(f"the responder tells nothing: {why}\n{program.log_tail(20)}")


class Client:
    """A real iperf3 client as a process; `borrowed` brings its login."""

    def __init__(
        self,
        host: str,
        port: int,
        arguments: Sequence[str],
        *,
        borrowed: Borrowed | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """Start it."""
        command = [*prefix, "iperf3", "-J", "-c", host, "-p", str(port), "--connect-timeout", "5000", *arguments]
        environment = dict(os.environ)
        self._key: Path | None = None
        if borrowed is not None and borrowed.login is not None:
            number, name = tempfile.mkstemp(suffix=".pem")
            os.write(number, borrowed.login.public_key.encode())
            os.close(number)
            self._key = Path(name)
            command += ["--username", borrowed.login.user, "--rsa-public-key-path", name]
            environment["IPERF3_PASSWORD"] = borrowed.login.password
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    def result(self, timeout_s: float = 60.0) -> str | None:
        """Wait for its end; return its complaint, or None if the test was made."""
        try:
            output, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return "no end"
        finally:
            self._forget_key()
        try:
            error = json.loads(output).get("error")
        except ValueError:
            return "no report"
        return str(error) if error is not None else None

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.communicate()
        self._forget_key()

    def _forget_key(self) -> None:
        if self._key is not None:
            self._key.unlink(missing_ok=True)
            self._key = None
