"""One iperf3 transfer in a process of its own: a JSON job on standard input, one JSON answer on standard output.

Run as `python -m agent.measurements.iperf_child`. Why a process (all observed with libiperf 3.12 and iperf3 0.1.11):

- `IPerf3.__del__` ends the test a second time: it writes into, and closes, whatever has the old socket numbers by then.
  Here the destructor never runs: every way out is `os._exit`.
- `Client.run()` collects libiperf's output in a pipe that nobody empties: past 64 KiB it waits for ever. Here
  `iperf_run_client` is called directly, the printed copy goes to /dev/null, and the JSON is read from memory.
- libiperf cannot be interrupted and sits on a dead link for 15 minutes. Here a second thread ends the test: gracefully
  when the byte cap is reached, by cutting the control connection at the deadline, by `_exit` if even that is ignored.

The same thread reads the kernel's figures of the streams (TCP_INFO) ten times a second: the round trip under load, in
both directions, and of an upload what has arrived, its start included; libiperf tells neither.

Imports the standard library and iperf3 alone; starts in some 30 ms.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Final, NoReturn

from agent.measurements import tcp_info

LIBRARY: Final = "libiperf.so.0"
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_LOOK_EVERY_S: Final = 0.1
_LOOK_FOR_START_S: Final = 0.02
"""How precisely the first data is seen: the mean over a whole upload is as good as that."""
_KEEP_LOOKS: Final = 1200
_GRACE_S: Final = 0.7
_RUNS_ON_S: Final = 0.5
"""What a transfer that was told to end still moves, as time at its present rate: a look late, and what is in queues."""
_EARLY: Final = 0.9999
"""Intervals end a little early: one that ends with the omitted start is lost every third time, with its bytes."""
_TEST: Final = ctypes.c_void_p


class _Time(ctypes.Structure):
    """`struct iperf_time` of iperf_time.h."""

    _fields_ = (("secs", ctypes.c_uint32), ("usecs", ctypes.c_uint32))


_SETTERS: Final[dict[str, Any]] = {
    "iperf_set_test_bind_dev": ctypes.c_char_p,
    "iperf_set_test_bind_port": ctypes.c_int,
    "iperf_set_test_client_password": ctypes.c_char_p,
    "iperf_set_test_client_rsa_pubkey": ctypes.c_char_p,
    "iperf_set_test_client_username": ctypes.c_char_p,
    "iperf_set_test_bytes": ctypes.c_uint64,
    "iperf_set_test_congestion_control": ctypes.c_char_p,
    "iperf_set_test_connect_timeout": ctypes.c_int,
    "iperf_set_test_logfile": ctypes.c_char_p,
    "iperf_set_test_rcv_timeout": ctypes.POINTER(_Time),
    "iperf_set_test_reporter_interval": ctypes.c_double,
    "iperf_set_test_stats_interval": ctypes.c_double,
}
"""Setters that the iperf3 package does not have. All are exported by libiperf 3.12 to 3.22, two without a prototype."""
_OAEP_SINCE: Final = (3, 17)
"""From here on a password is padded by OAEP unless told otherwise (RELNOTES of 3.17)."""


class _Unusable(Exception):
    """This libiperf cannot do what the job asks for; the text says what it lacks."""


class _Transfer:
    """A configured libiperf client; may be run once."""

    def __init__(self, job: dict[str, Any]) -> None:
        import iperf3  # noqa: PLC0415  # a missing package is an answer, not a traceback

        # Kept for the life of the process: its destructor must not run, and without lib_name it looks for liblibiperf.
        self._client = iperf3.Client(lib_name=LIBRARY, verbose=False)
        self._lib = self._client.lib
        self._test = self._client._test  # noqa: SLF001  # the handle that the missing setters need
        for name, argument in _SETTERS.items():
            setter = getattr(self._lib, name, None)
            if setter is not None:
                setter.argtypes, setter.restype = (_TEST, argument), None
        self._lib.iperf_get_control_socket.argtypes = (_TEST,)
        self._lib.iperf_get_control_socket.restype = ctypes.c_int
        self.version = self._version()
        if job.get("login") is not None and self.version >= _OAEP_SINCE:
            self._pad_as_before(job["host"])
        self._configure(job)

    def _version(self) -> tuple[int, ...]:
        """Read libiperf's version; (0,) if it does not say."""
        tell = getattr(self._lib, "iperf_get_iperf_version", None)
        if tell is None:
            return (0,)
        tell.restype = ctypes.c_char_p
        text = (tell() or b"").decode("ascii", "replace")
        return tuple(int(part) for part in text.split("+")[0].split(".") if part.isdecimal()) or (0,)

    def _pad_as_before(self, host: str) -> None:
        """Have the password padded by PKCS #1 v1.5, as the responder expects of clients of every version.

        No setter does that (looked for in 3.18 and 3.22), only the command line; its parser is exported. It goes
        first, because it fills in defaults of its own.
        """
        parse = getattr(self._lib, "iperf_parse_arguments", None)
        if parse is None:
            raise _Unusable("no iperf_parse_arguments, so the password cannot be padded as the server expects")
        words = (b"iperf3", b"-c", host.encode(), b"--use-pkcs1-padding")
        parse.argtypes, parse.restype = (_TEST, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)), ctypes.c_int
        self._words = (ctypes.c_char_p * (len(words) + 1))(*words, None)  # kept: libiperf may point into it
        if parse(self._test, len(words), self._words) != 0:
            raise _Unusable(
                f"version {'.'.join(map(str, self.version))} pads passwords by OAEP alone, which the responder's "
                "servers do not read; install one from 3.12 to 3.18"
            )

    def _configure(self, job: dict[str, Any]) -> None:
        client = self._client
        client.server_hostname = job["host"]
        client.port = job["port"]
        client.duration = math.ceil(job["duration_s"])  # whole seconds are all it takes; the watchdog ends it sooner
        client.omit = job["omit_s"]
        client.reverse = job["reverse"]
        client.num_streams = job["streams"]
        if (udp := job.get("udp")) is not None:
            client.protocol = "udp"
            client.blksize = udp["payload_bytes"]  # the package's own default makes datagrams that IP has to split
            client.bandwidth = udp["rate_bps"]
        if job.get("source"):
            client.bind_address = job["source"]
        if job.get("client_port"):
            self._set("iperf_set_test_bind_port", job["client_port"])
        if job.get("device"):
            self._set("iperf_set_test_bind_dev", job["device"].encode())
        self._set("iperf_set_test_logfile", b"/dev/null")
        interval_s = job["interval_s"] * _EARLY
        self._set("iperf_set_test_reporter_interval", interval_s)
        self._set("iperf_set_test_stats_interval", interval_s)
        self._set("iperf_set_test_connect_timeout", int(job["connect_timeout_s"] * 1000))
        if job.get("congestion"):
            self._set("iperf_set_test_congestion_control", job["congestion"].encode())
        if (login := job.get("login")) is not None:
            self._set("iperf_set_test_client_username", login["user"].encode())
            self._set("iperf_set_test_client_password", login["password"].encode())
            self._set("iperf_set_test_client_rsa_pubkey", base64.b64encode(login["public_key"].encode()))
        if job["reverse"]:
            self._set("iperf_set_test_rcv_timeout", ctypes.byref(_Time(int(job["receive_timeout_s"]), 0)))

    def _set(self, name: str, value: object) -> None:
        """Call one of the setters; raise _Unusable where this libiperf lacks it: a default would be a lie."""
        setter = getattr(self._lib, name, None)
        if setter is None:
            version = ".".join(map(str, self.version))
            raise _Unusable(f"version {version} has no {name}; 3.12 (Debian 12) or later is needed")
        setter(self._test, value)

    def run(self) -> dict[str, Any]:
        """Block until the test has ended; return iperf3's JSON. A failure is its key `error`, beside the figures."""
        status = self._lib.iperf_run_client(self._test)
        text = self._lib.iperf_get_test_json_output_string(self._test)
        report: dict[str, Any] = json.loads(text.decode("utf-8", "replace")) if text else {}
        if not text or (status < 0 and "error" not in report):
            report["error"] = self._client._error_to_string(self._client._errno)  # noqa: SLF001  # no public name
        return report

    def finish_early(self) -> None:
        """End as if the duration were over: results are exchanged and nothing is an error. For another thread."""
        self._set("iperf_set_test_bytes", 1)

    def streams(self) -> list[tcp_info.Look]:
        """Look at the streams' connections. For another thread."""
        return tcp_info.connections(without=self._lib.iperf_get_control_socket(self._test))

    def cut(self) -> None:
        """Cut the control connection: `run` returns at once with an error and every interval so far. Same."""
        number = self._lib.iperf_get_control_socket(self._test)
        if number >= 0:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as control:
                control.shutdown(socket.SHUT_RDWR)


class _Watchdog(threading.Thread):
    """Ends a transfer that has spent its bytes or its time, and keeps a record of its streams."""

    def __init__(self, transfer: _Transfer, job: dict[str, Any], begun_s: float, answer: int) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.byte_cap_reached = False
        self.quota_reached = False
        self.deadline_reached = False
        self.looks: list[tuple[float, int, int]] = []
        """Seconds since the transfer began, bytes moved (of an upload: arrived), mean round trip in microseconds."""
        self._transfer, self._answer = transfer, answer
        self._begun_s = begun_s
        self._deadline_s: float = begun_s + job["deadline_s"]
        self._cap: int | None = job.get("max_bytes")
        self._interface: str = job.get("device") or ""
        self._quota: int | None = job.get("left_bytes")
        self._omit_s: float = job["omit_s"]
        self._length_s: float = job["omit_s"] + job["duration_s"]
        self._broken_second = job["duration_s"] % 1 > 0
        self._udp = job.get("udp") is not None
        self._reverse: bool = job["reverse"]
        self._before_s = 0.0
        self._first = self._carried() or (0, 0)
        self._last = (begun_s, 0)
        self._next_s = begun_s

    def run(self) -> None:
        while not self.ended.wait(self._pause_s()):
            self._look()
            if self._broken_second and self._left_s() <= 0:
                self._broken_second = False
                self._transfer.finish_early()
            if time.monotonic() < self._next_s:
                continue
            self._next_s = time.monotonic() + _LOOK_EVERY_S * 0.9
            self._end_if_spent()
            if time.monotonic() >= self._deadline_s:
                self.deadline_reached = True
                self._transfer.cut()
                if not self.ended.wait(_GRACE_S):
                    leave(self._answer, {"error": "deadline", "deadline_reached": True, "looks": self.looks})

    def _pause_s(self) -> float:
        if not self.looks and not self._udp:
            return _LOOK_FOR_START_S
        return max(0.001, min(_LOOK_EVERY_S, self._left_s())) if self._broken_second else _LOOK_EVERY_S

    def _left_s(self) -> float:
        """How long the transfer is to go on, counted from its first data."""
        if not self.looks:
            return self._length_s
        return self._begun_s + self.looks[0][0] + self._length_s - time.monotonic()

    def _look(self) -> None:
        """Note how the streams do, from the last look before their first data on."""
        streams = [] if self._udp else self._transfer.streams()
        now_s = time.monotonic() - self._begun_s
        begun = any(one.data_segments_in if self._reverse else one.data_segments_out > 1 for one in streams)  # cookie
        if not streams or len(self.looks) >= _KEEP_LOOKS or not (begun or self.looks):
            self._before_s = now_s
            return
        if not self.looks:
            self.looks.append((self._before_s, 0, 0))
        if self._reverse:
            moved, rtts = [one.received_bytes for one in streams], [one.receiver_rtt_us for one in streams]
        else:
            moved, rtts = [one.acked_bytes for one in streams], [one.rtt_us for one in streams]
        self.looks.append((round(now_s, 4), sum(moved), sum(rtts) // len(rtts)))

    def _end_if_spent(self) -> None:
        """End the test when the cap of its direction, or what the plan has left for both, would be passed soon.

        Told to finish, libiperf goes on to the end of the omitted start. For a cap that is soon enough; a plan that is
        spent by then cuts the test, which has no figures.
        """
        carried = self._carried() if self._cap is not None or self._quota is not None else None
        if carried is None:
            return
        ways = [now - first for now, first in zip(carried, self._first, strict=True)]
        (last_s, last_bytes), now_s = self._last, time.monotonic()
        self._last = (now_s, sum(ways))
        rate = (sum(ways) - last_bytes) / max(now_s - last_s, _LOOK_EVERY_S)
        self.byte_cap_reached |= self._cap is not None and ways[0 if self._reverse else 1] >= self._cap
        self.quota_reached |= self._quota is not None and sum(ways) + rate * _RUNS_ON_S >= self._quota
        if self.quota_reached and self._is_omitting():
            self._transfer.cut()
        elif self.byte_cap_reached or self.quota_reached:
            self._transfer.finish_early()

    def _is_omitting(self) -> bool:
        """Whether nothing that counts has flowed yet."""
        return self._omit_s > 0 and self._left_s() > self._length_s - self._omit_s

    def _carried(self) -> tuple[int, int] | None:
        """Read the interface's counters, received and sent bytes: what the data plan is charged for."""
        with contextlib.suppress(OSError), open("/proc/self/net/dev", encoding="ascii") as table:  # noqa: PTH123  # light
            for row in table:
                name, colon, figures = row.partition(":")
                if colon and name.strip() == self._interface:
                    columns = figures.split()
                    return int(columns[0]), int(columns[8])
        return None


def busy_s() -> float:
    """How long this thread ran or waited for a processor (sched-stats.rst of the kernel); at least how long it ran."""
    with contextlib.suppress(OSError, ValueError), open("/proc/thread-self/schedstat", encoding="ascii") as file:  # noqa: PTH123  # light
        ran_ns, waited_ns, _slices = map(int, file.read().split())
        return (ran_ns + waited_ns) / 1e9
    return time.thread_time()


def leave(answer: int, report: dict[str, Any]) -> NoReturn:
    """Write the answer and be gone, without destructors."""
    rest = json.dumps(report).encode()
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(answer, rest) :]
    os._exit(0)


def main() -> NoReturn:
    """Do one job."""
    begun_s = time.monotonic()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # an agent that is killed leaves no test running
    answer = os.dup(1)
    os.set_inheritable(answer, False)  # noqa: FBT003  # the function's only form
    os.dup2(2, 1)  # what libiperf prints must not end up in the answer
    try:
        job = json.load(sys.stdin)
        if not isinstance(job, dict):
            raise TypeError(type(job).__name__)  # noqa: TRY301  # answered below, like every other mistake of a job
        transfer = _Transfer(job)
    except (ImportError, OSError, _Unusable) as error:
        leave(answer, {"error": f"libiperf: {error}", "unusable": True})
    except (ValueError, KeyError, TypeError, ctypes.ArgumentError) as error:
        leave(answer, {"error": f"job: {error!r}", "unusable": True})
    watchdog = _Watchdog(transfer, job, begun_s, answer)
    watchdog.start()
    busy_before_s = busy_s()
    report = transfer.run()
    busy_after_s = busy_s()
    watchdog.ended.set()
    report["busy_s"] = busy_after_s - busy_before_s
    report["byte_cap_reached"] = watchdog.byte_cap_reached
    report["quota_reached"] = watchdog.quota_reached
    report["deadline_reached"] = watchdog.deadline_reached
    report["looks"] = watchdog.looks
    leave(answer, report)


if __name__ == "__main__":
    main()
