"""One throughput run where it is started (in a namespace, say): a JSON task on standard input, JSON on standard output.

The same call as the agent's own; only who asks is another.
"""

from __future__ import annotations

import sys

import msgspec

from agent import path as paths
from agent.measurements import throughput
from agent.measurements.base import MeasurementFailed
from agent.measurements.throughput_options import ThroughputOptions
from wire.measured import Transfer
from wire.results import Server


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure."""

    interface: str
    host: str
    ports: tuple[int, ...]
    options: ThroughputOptions


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; `failed` says why there are no figures."""

    download: Transfer | None = None
    upload: Transfer | None = None
    invalid: tuple[str, ...] = ()
    failed: str | None = None


def measure(task: Task) -> Answer:
    """Make the run in this namespace."""
    try:
        server = Server(host=task.host, ports=task.ports)
        measured = throughput.run(paths.look(task.interface), server, task.options)
    except MeasurementFailed as failure:
        return Answer(failed=str(failure))
    failed = f"no upload: {measured.upload_failure}" if measured.upload_failure is not None else None
    return Answer(download=measured.download, upload=measured.upload, invalid=measured.invalid, failed=failed)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))))
