"""`probe-agent once JOB`: one run now, by hand; it counts and travels like every other."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final

from agent.runner import describe
from wire.codec import encode
from wire.measured import Failed

if TYPE_CHECKING:
    from types import FrameType

    from agent.service import Service
    from agent.settings import Job, Link

_BROKER_WITHIN_S: Final = 10.0
_ACK_WITHIN_S: Final = 15.0


class NotThere(Exception):
    """The configuration has no such job or link; the text names those it has."""


def run_once(service: Service, job_name: str, link_name: str | None, *, as_json: bool) -> int:
    """Run the job on each of its links (or the one named), print what came of it; return the exit status.

    1 if any run failed or could not be delivered yet; what is not delivered stays in the spool. Raise NotThere.
    """
    job, links = _find(service, job_name, link_name)
    signal.signal(signal.SIGTERM, lambda number, frame: _stop(service, number, frame))
    signal.signal(signal.SIGINT, lambda number, frame: _stop(service, number, frame))
    publisher = service.publisher
    publisher.start()
    failed = False
    try:
        service.runner.recover()
        broker = service.settings.broker
        print(f"connecting to broker {broker.host}:{broker.port} ...", file=sys.stderr)
        if not publisher.wait_until_connected(_BROKER_WITHIN_S):
            print("the broker is away; the result will wait in the spool", file=sys.stderr)
        for link in links:
            print(f"{job.name} on {link.name} ({link.interface}) ...", file=sys.stderr)
            slot = service.spool.last_slots().get((job.name, link.name), -1)  # the schedule is not disturbed
            result = service.runner.run(job, link, slot=slot, due=None, by_hand=True)
            failed = failed or isinstance(result.outcome, Failed)
            print(encode(result).decode() if as_json else f"{link.name}: {describe(result.outcome)}")
            service.date_results()
            publisher.wake()
        undated = service.spool.count_undated()
        delivered = not undated and publisher.wait_until_connected(0) and publisher.wait_until_empty(_ACK_WITHIN_S)
        if undated:
            print("the clock of this machine is not set; results wait in the spool until it is", file=sys.stderr)
        print("delivered" if delivered else "not delivered yet: it waits in the spool", file=sys.stderr)
    finally:
        publisher.stop(flush_s=0)
        service.spool.close()
    return 1 if failed or not delivered else 0


def _stop(service: Service, _number: int, _frame: FrameType | None) -> None:
    service.runner.stop()


def _find(service: Service, job_name: str, link_name: str | None) -> tuple[Job, tuple[Link, ...]]:
    settings = service.settings
    try:
        job = settings.job(job_name)
    except KeyError:
        names = ", ".join(job.name for job in settings.jobs)
        raise NotThere(f"agent.yaml has no job '{job_name}'; jobs: {names}") from None
    links = settings.links_of(job)
    if link_name is not None:
        chosen = tuple(link for link in links if link.name == link_name)
        if not chosen:
            names = ", ".join(link.name for link in links)
            raise NotThere(f"job '{job_name}' has no link '{link_name}'; links: {names}")
        links = chosen
    return job, links
