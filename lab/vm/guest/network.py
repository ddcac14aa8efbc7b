"""The operator's side of a data call: a namespace with a PPP peer for each call, a resolver and an iperf3 server."""

from __future__ import annotations

import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lab.netns import Namespace

GATEWAY: Final = "10.64.0.1"
SUBSCRIBER: Final = "10.64.0.2"
NAME_SERVER: Final = "10.64.0.53"
SERVER: Final = "198.51.100.10"  # an address for documentation (RFC 5737): here it stands for a host on the Internet
SERVER_PORT: Final = 5201

_DNS_PORT: Final = 53
_DNS_BYTES: Final = 512
_ANSWERED: Final = bytes((0x81, 0x80))  # a response, no error, recursion available (RFC 1035 section 4.1.1)


class OperatorNetwork:
    """Gives every data call a PPP peer that hands out SUBSCRIBER and NAME_SERVER, and serves iperf3 at SERVER."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._iperf: subprocess.Popen[bytes] | None = None
        namespace.ip(f"address add {SERVER}/32 dev lo", f"address add {NAME_SERVER}/32 dev lo")
        with namespace.inside():
            questions = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        questions.bind((NAME_SERVER, _DNS_PORT))
        threading.Thread(target=_answer, args=(questions,), name="resolver", daemon=True).start()
        self.serve()

    def carry(self, call: socket.socket) -> None:
        """Be the peer of one data call until it ends: `on_data` of a simulated modem."""
        options = ("nodetach", "local", "noauth", "noccp", "nodefaultroute", "ms-dns", NAME_SERVER)
        line = call.fileno()
        self._namespace.popen(["pppd", "notty", *options, f"{GATEWAY}:{SUBSCRIBER}"], stdin=line, stdout=line).wait()

    def serve(self) -> None:
        """Start the iperf3 server, anew if it runs: that one may still wait for a test that was cut off."""
        if self._iperf is not None:
            self._iperf.kill()
            self._iperf.wait()
        command = ["iperf3", "--server", "--port", str(SERVER_PORT)]
        self._iperf = self._namespace.popen(command, stdout=subprocess.DEVNULL)


def _answer(questions: socket.socket) -> None:
    """Answer every question, with no record: enough to show that a resolver is reached. Ends with the process."""
    while True:
        question, asker = questions.recvfrom(_DNS_BYTES)
        questions.sendto(question[:2] + _ANSWERED + question[4:], asker)
