"""A modem on a real pseudo-terminal, scripted, and recorded replies."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import threading
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Our own replies, and a larger set that lies beside the repository where it is developed.
REPOSITORY = Path(__file__).parents[3]
SHARED = REPOSITORY.parent / "shared" / "data" / "modem_shared.jsonl"
OWN = REPOSITORY / "tests" / "transcripts" / "replies.jsonl"


@pytest.fixture(params=[OWN, SHARED], ids=["own", "shared"])
def records(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Load recorded replies with what is to be read from them; see tests/transcripts/README.md."""
    path: Path = request.param
    if not path.exists():
        pytest.skip(f"{path} IS MISSING: ITS RECORDED REPLIES ARE NOT CHECKED")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


class Peer:
    """The far end of a port: answers each command by a function of it; bytes to send, or None to unplug itself."""

    def __init__(self, answer: Callable[[str], bytes | None], *, unasked: bytes = b"", endless: bytes = b"") -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self.heard: list[str] = []
        self._answer = answer
        self._unasked = unasked
        self._endless = endless
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        pending = b""
        with contextlib.suppress(OSError):
            os.write(self._master, self._unasked)
            while True:
                writers = [self._master] if self._endless else []
                ready, writable, _ = select.select([self._master, self._stop_read], writers, [])
                if self._stop_read in ready:
                    break
                if self._master in ready:
                    pending += os.read(self._master, 4096).replace(b"\x1a", b"\x1a\r")  # ends the text of a message
                    while b"\r" in pending:
                        line, pending = pending.split(b"\r", 1)
                        command = line.decode("ascii", "replace").strip("\n\x1b")
                        self.heard.append(command)
                        reply = self._answer(command)
                        if reply is None:
                            os.close(self._master)
                            self._master = -1
                            return
                        os.write(self._master, reply)
                if writable and self._endless:
                    os.write(self._master, self._endless)

    def close(self) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join(timeout=5)
        for number in (self._master, self._slave, self._stop_read, self._stop_write):
            if number >= 0:
                os.close(number)


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Make peers; all are closed at the end."""
    made: list[Peer] = []

    def make(answer: Callable[[str], bytes | None], **more: bytes) -> Peer:
        made.append(Peer(answer, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


EC25 = {
    "AT+CGMI": "Quectel",
    "AT+CGMM": "EC25",
    "AT+CGMR": "EC25EFAR06A01M4G",
    "AT+CGSN": "861234567890123",
    "AT+QCCID": "+QCCID: 89840200001234567890",
    "AT+CPIN?": "+CPIN: READY",
    'AT+QENG="servingcell"': (
        '+QENG: "servingcell","NOCONN","LTE","FDD",452,04,844D92A,248,1275,3,5,5,D6E7,-89,-8,-61,17,38'
    ),
    "AT+QCSQ": '+QCSQ: "LTE",-61,-89,180,-8',
    "AT+CEREG?": '+CEREG: 2,1,"D6E7","844D92A",7',
    "AT+COPS?": '+COPS: 0,0,"Viettel",7',
    "AT+QTEMP": "+QTEMP: 30,28,29",
}


@pytest.fixture
def ec25() -> Callable[..., Callable[[str], bytes | None]]:
    """Make the answers of an EC25 with echo on; `faults` answers a command literally, None unplugs."""
    return lambda **faults: _modem(EC25 | faults.pop("table", {}), faults.pop("faults", {}))


def _modem(table: dict[str, str], faults: dict[str, bytes | None]) -> Callable[[str], bytes | None]:

    def answer(command: str) -> bytes | None:
        if command in faults:
            return faults[command]
        echo = command + "\r"
        if command in table:
            return f"{echo}\r\n{table[command]}\r\n\r\nOK\r\n".encode()
        if command == "AT" or command.startswith(("ATE0", "ATV1", "AT+CMEE=", "AT+CSCS=", "AT+COPS=3")):
            return f"{echo}\r\nOK\r\n".encode()
        return f"{echo}\r\n+CME ERROR: 4\r\n".encode()

    return answer
