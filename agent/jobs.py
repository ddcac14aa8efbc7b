"""What each measurement does on the bench, step by step; the table says what this agent can measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent import name_servers, validity
from agent.lease import LONGEST_WINDOW_S, WAIT_AT_MOST_S
from agent.measurements import capacity, dns, http_client, latency, ping, throughput, web
from agent.measurements.base import MeasurementFailed
from agent.measurements.link_watch import on_link
from agent.measurements.throughput import Terms
from agent.settings import CapacityJob, DnsJob, LatencyJob, PingJob, RadioJob, ThroughputJob, WebJob
from agent.validity import Evidence
from wire.measured import Radio, Throughput
from wire.reasons import Reason
from wire.results import Server

if TYPE_CHECKING:
    from agent.bench import Bench
    from agent.measurements.throughput import Measured
    from agent.measurements.throughput_options import ThroughputOptions
    from agent.path import LinkPath
    from agent.settings import Job
    from agent.witness import Witness
    from wire.measured import Capacity, Latency, Ping
    from wire.results import Outcome

_OUT_OF_REACH: Final = {Reason.TIMEOUT, Reason.UNREACHABLE, Reason.LINK_LOST}
_LEASE_MARGIN_S: Final = 5.0
_PLAIN_SERVERS_PATIENCE_S: Final = 60.0
_ECHO_LEASE_S: Final = 5.0


def run(bench: Bench, job: Job) -> Outcome:
    """Measure what the job asks for; raise MeasurementFailed, with a trace where the server was out of reach."""
    try:
        return _run(bench, job)
    except MeasurementFailed as failure:
        if failure.reason in _OUT_OF_REACH:
            failure.trace = bench.trace()
        raise


def _run(bench: Bench, job: Job) -> Outcome:  # noqa: PLR0911  # a table, one line for each kind
    match job:
        case ThroughputJob():
            return _throughput(bench, job)
        case LatencyJob():
            return _latency(bench, job)
        case PingJob():
            return _ping(bench, job)
        case DnsJob():
            path = bench.path()
            bench.server = next((Server(host=one) for one in name_servers.of_link(path).servers), None)
            with on_link(path):
                return dns.run(path, job.options)
        case WebJob():
            path = bench.path()
            bench.server = Server(host=http_client.parts_of(job.options.urls[0]).host)
            with on_link(path):
                return web.run(path, job.options)
        case CapacityJob():
            return _capacity(bench, job)
        case RadioJob():
            return Radio(reading=bench.look().reading)


def _throughput(bench: Bench, job: ThroughputJob) -> Throughput:
    """Measure in this order: path, radio, server, download, upload, radio; then say whether it is a sample.

    While the transfers run they are watched, and nothing else of the agent uses the link.
    """
    path = bench.path()
    before = bench.look_before_test()
    saved = job.options.upload and bench.upload_saved
    options = msgspec.structs.replace(job.options, upload=False) if saved else job.options
    window_s = _window_s(bench, job.every_s)
    witness = bench.witness()
    measured = _measure(bench, path, options, witness, window_s=window_s)
    bench.note_family(path, measured.download.family)
    past_lease_s = bench.past_lease_s()
    after = bench.look_after_test()
    evidence = Evidence(
        before=before,
        during=tuple(witness.radio),
        after=after,
        transfers=(measured.download,) if measured.upload is None else (measured.download, measured.upload),
        machine=witness.machine,
        clock_step_s=witness.clock_step_s,
        plan_spent=bench.plan_spent(),
        server_load_percent=bench.server.load_percent if bench.server is not None else None,
        past_lease_s=past_lease_s,
    )
    return Throughput(
        download=measured.download,
        upload=measured.upload,
        upload_failure=Reason.BUDGET_SHORT if saved else measured.upload_failure,
        radio_before=before,
        radio_after=after,
        invalid=tuple(dict.fromkeys((*measured.invalid, *validity.doubts(evidence)))),
        technologies_during=validity.technologies(evidence.during),
        machine=witness.machine,
        idle=measured.idle,
    )


def _window_s(bench: Bench, every_s: int | None) -> float:
    """Say how long a run may wait for its turn: to the end of its slot of the day's plan, else for half its period."""
    left_s = bench.slot_left_s()
    if left_s is None:
        left_s = max((every_s or 0) / 2, WAIT_AT_MOST_S)
    return min(left_s, LONGEST_WINDOW_S)


def _measure(
    bench: Bench, path: LinkPath, options: ThroughputOptions, witness: Witness, *, window_s: float
) -> Measured:
    terms = Terms(last_mbps=bench.last_mbps())
    if bench.plain_servers:
        servers = [Server(host=server.host, ports=(server.port,)) for server in bench.plain_servers]
        terms = terms._replace(left_bytes=bench.left_now_bytes(), irtt_port=latency.DEFAULT_PORT)
        with witness:
            measured, bench.server = throughput.run_in_turn(
                path, servers, options, patience_s=_PLAIN_SERVERS_PATIENCE_S, terms=terms
            )
        bench.note_speed(_fastest(measured))
        return measured
    length_s = options.longest_s + _LEASE_MARGIN_S
    borrowed = bench.borrow(transfers=options.transfers, length_s=length_s, window_s=window_s)
    terms = terms._replace(left_bytes=bench.left_now_bytes(), irtt_port=borrowed.irtt_port, login=borrowed.login)
    with witness:
        terms = terms._replace(begin_within_s=bench.begin_within_s())
        measured = throughput.run(path, borrowed.plain(), options, terms)
    bench.note_speed(_fastest(measured))
    return measured


def _fastest(measured: Measured) -> float:
    """Name the speed that the next test may need: of the faster direction."""
    transfers = [measured.download] if measured.upload is None else [measured.download, measured.upload]
    return max(transfer.steady_mbps for transfer in transfers)


def _capacity(bench: Bench, job: CapacityJob) -> Capacity:
    """Measure to the first plain server, else to a borrowed one."""
    path = bench.path()
    reading = bench.look_before_test()
    terms = Terms(last_mbps=bench.last_mbps())
    if bench.plain_servers:
        plain = bench.plain_servers[0]
        bench.server = server = Server(host=plain.host, ports=(plain.port,))
    else:
        borrowed = bench.borrow(
            transfers=job.options.transfers,
            length_s=job.options.longest_s + _LEASE_MARGIN_S,
            window_s=_window_s(bench, job.every_s),
        )
        server, terms = borrowed.plain(), terms._replace(login=borrowed.login)
    with bench.quiet():
        found = capacity.run(path, server, job.options, terms._replace(left_bytes=bench.left_now_bytes()))
    return msgspec.structs.replace(found, radio=reading)


def _latency(bench: Bench, job: LatencyJob) -> Latency:
    """Measure to the job's own host, else to the first plain server, else to the responder's echo server."""
    path = bench.path()
    host = job.host or (bench.plain_servers[0].host if bench.plain_servers else None)
    port: int | None = latency.DEFAULT_PORT
    if host is None:
        borrowed = bench.borrow(transfers=0, length_s=_ECHO_LEASE_S)
        host, port = borrowed.host, borrowed.irtt_port
    if port is None:
        raise MeasurementFailed(Reason.REFUSED, f"{host} has no echo server; give the latency job a `host`")
    bench.server = Server(host=host, responder=bench.server.responder if bench.server is not None else None)
    return latency.run(path, host, job.options, port=port)


def _ping(bench: Bench, job: PingJob) -> Ping:
    """Measure to the job's own host, else to the first plain server, else to the responder's; or to a URL alone."""
    path = bench.path()
    host = job.host or (bench.plain_servers[0].host if bench.plain_servers else None)
    if host is None and job.options.needs_host:
        host = bench.borrow(transfers=0, length_s=_ECHO_LEASE_S).host
    url = job.options.http_url
    named = host if job.options.needs_host or url is None else http_client.parts_of(url).host
    if bench.server is None and named is not None:
        bench.server = Server(host=named)
    with on_link(path):
        return ping.run(path, host, job.options)
