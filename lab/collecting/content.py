"""Made-up results of a fleet, encoded as agents encode them. Pure; the same seed makes the same bytes.

The kinds come in the shares of the default schedule (config/agent.yaml): of a link's day 1,440 are looks at the radio,
none of them folded, 96 latencies and 18 throughput tests.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from wire import codec
from wire.measured import Echo, Latency, Radio, Throughput, Transfer
from wire.radio import RadioReading, Registration, Technology
from wire.results import Clock, Job, Outcome, Result, Route, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

PER_DAY: Final = {"radio": 1440, "latency": 96, "throughput": 18}
"""Results of one link in a day; a test holds it against config/agent.yaml."""
_RESULTS_PER_DAY: Final = sum(PER_DAY.values())
_DAY_S: Final = 86400.0
_START: Final = datetime(2026, 7, 1, tzinfo=UTC)
_OPERATORS: Final = (("viettel", "Viettel", "04"), ("vinaphone", "VinaPhone", "02"), ("mobifone", "MobiFone", "01"))


def probe_id(number: int) -> str:
    """Name a probe."""
    return f"lab-{number:04d}"


def results(probe: int, count: int, *, first_seq: int = 1, start: datetime = _START) -> Iterator[bytes]:
    """Encode `count` results of one probe with one link, one after the other in time, numbered from `first_seq`."""
    dice = random.Random(f"{probe} {first_seq}")
    name, operator, mnc = _OPERATORS[probe % len(_OPERATORS)]
    cell = 25_000_000 + probe * 256
    for number in range(first_seq, first_seq + count):
        kind = _kind(number)
        reading = _reading(dice, operator, mnc, cell)
        started_at = start + timedelta(seconds=round(number * _DAY_S / _RESULTS_PER_DAY + dice.random(), 6))
        result = Result(
            probe_id=probe_id(probe),
            spool_id=f"{probe:016x}",
            seq=number,
            site=f"site-{probe:04d}",
            link=name,
            job=Job(name="throughput-light" if kind == "throughput" else kind, measurement=kind),
            used=_route(operator, probe) if kind != "radio" else Route(interface="wwan0", operator=operator),
            started_at=started_at,
            elapsed_s=round(dice.uniform(0.1, 15.0), 3),
            clock=Clock(synchronised=True, estimated_error_ms=round(dice.uniform(0.5, 9.0), 2)),
            agent_version="0.1.0",
            outcome=_outcome(kind, dice, reading),
        )
        yield codec.encode(result)


def _kind(number: int) -> str:
    place = number * 977 % _RESULTS_PER_DAY  # 977 is prime to the sum: each place comes once a day, well mixed
    for kind, times in PER_DAY.items():
        if place < times:
            return kind
        place -= times
    raise AssertionError(number)


def _outcome(kind: str, dice: random.Random, reading: RadioReading) -> Outcome:
    if kind == "radio":
        return Radio(reading=reading)
    if kind == "latency":
        rtt_ms = dice.uniform(25.0, 80.0)
        echo = Echo(
            tool="irtt",
            sent=50,
            received=dice.randrange(46, 51),
            loss_percent=round(dice.uniform(0, 8), 1),
            rtt_min_ms=round(rtt_ms, 2),
            rtt_mean_ms=round(rtt_ms * 1.2, 2),
            rtt_median_ms=round(rtt_ms * 1.1, 2),
            rtt_max_ms=round(rtt_ms * 3, 2),
            jitter_ms=round(dice.uniform(0.5, 9.0), 2),
        )
        icmp = Echo(tool="ping", sent=10, received=10, loss_percent=0.0, rtt_mean_ms=round(rtt_ms * 1.3, 2))
        return Latency(udp=echo, loss_up_percent=1.0, loss_down_percent=1.0, icmp=icmp, interface_bytes=18_000)
    return Throughput(
        download=_transfer(dice, 60.0), upload=_transfer(dice, 20.0), radio_before=reading, radio_after=reading
    )


def _transfer(dice: random.Random, mbps: float) -> Transfer:
    speeds = [round(mbps * dice.uniform(0.6, 1.2), 2) for _ in range(10)]
    mean = sum(speeds) / len(speeds)
    return Transfer(
        steady_mbps=round(mean, 2),
        mbps=round(mean * 0.97, 2),
        payload_bytes=int(mean * 5e6 / 8),
        elapsed_s=5.0,
        omit_s=1.0,
        streams=4,
        congestion="cubic",
        retransmits=dice.randrange(40),
        interval_mbps=tuple(speeds),
        interface_bytes=int(mean * 6.5e6 / 8),
        other_interfaces_bytes=dice.randrange(4000),
    )


def _reading(dice: random.Random, operator: str, mnc: str, cell: int) -> RadioReading:
    rsrp_dbm = float(dice.randrange(-115, -75))
    return RadioReading(
        registration=Registration.HOME,
        technology=Technology.LTE,
        operator=operator,
        mcc="452",
        mnc=mnc,
        tac=24101,
        cell_id=cell + dice.randrange(3),
        enodeb_id=cell >> 8,
        pci=dice.randrange(504),
        earfcn=1350,
        band=3,
        bandwidth_mhz=20.0,
        rsrp_dbm=rsrp_dbm,
        rsrq_db=round(dice.uniform(-18, -6), 1),
        sinr_db=round(dice.uniform(-2, 25), 1),
        rssi_dbm=rsrp_dbm + 31,
    )


def _route(operator: str, probe: int) -> Route:
    return Route(
        interface="wwan0",
        source_address=f"10.64.{probe >> 8}.{probe & 255}",
        operator=operator,
        iccid_sha256=f"{probe:064x}",
        modem="EC25",
        server=Server(host="203.0.113.5", ports=(5201, 5202), responder="r1", lease=f"{probe:016x}"),
    )
