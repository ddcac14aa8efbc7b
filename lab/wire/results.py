"""Results as a probe makes them, with the digits that they really have, since digits are what does not compress.

Every field that a message has is filled in, by its name and type, so that a field added tomorrow is paid for in the
figures of the bench at once. What belongs to the link (operator, cell, SIM) stays the same from result to result.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect

from lab.modem.signal import Walk
from wire.measured import Latency, Throughput
from wire.radio import RadioReading, Registration, Technology
from wire.results import Clock, Job, Outcome, Result, Route, Server

_INTERVALS: Final = 10
_LEFT_OUT: Final = {"invalid", "upload_failure", "cut_short"}
"""Said only of what is no full sample."""
_WORDS: Final = {"tool": "irtt", "congestion": "cubic", "family": "ipv4"}
_AROUND: Final = {
    "interval_mbps": (45.0, 12.0, 1),
    "mbps": (45.0, 12.0, 3),
    "ms": (48.0, 15.0, 1),
    "percent": (0.5, 0.5, 2),
    "elapsed_s": (5.0, 0.004, 3),
    "other_interfaces_bytes": (1500.0, 800.0, 0),
    "bytes": (28e6, 8e6, 0),
    "share": (0.3, 0.1, 3),
}
"""By the end of a field's name: a mean, a spread, and the digits that the agent keeps."""
_LATENCY_BYTES: Final = 18_000
"""What fifty echoes over UDP and ten of ICMP, there and back, carry with what is asked before."""
_FIXED: Final = {"interval_s": 0.5, "omit_s": 1.0, "streams": 4, "count": 60, "sent": 50, "received": 50}


class Maker:
    """Makes results of one link; the same seed makes the same ones."""

    def __init__(self, probe_id: str, site: str, link: str, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._walk = Walk(seed, spread=6.0)
        self._load = Walk(seed + 1, spread=4.0)
        self._probe_id, self._site, self._link = probe_id, site, link

    def reading(self, at_s: float) -> RadioReading:
        """Look at the radio: levels wander as lab.modem.signal has them, in the steps that modems report."""
        level, load = self._walk.at(at_s), self._load.at(at_s)
        return RadioReading(
            registration=Registration.HOME,
            technology=Technology.LTE,
            operator="Viettel",
            mcc="452",
            mnc="04",
            tac=24101,
            cell_id=25968141,
            enodeb_id=101438,
            pci=248,
            earfcn=1350,
            band=3,
            bandwidth_mhz=20.0,
            rsrp_dbm=float(round(-96 + level)),
            rsrq_db=float(round(-11 + load / 2)),
            sinr_db=round((12 + level + load) * 5) / 5,
            rssi_dbm=float(round(-66 + level - load / 2)),
        )

    def throughput(self, at_s: float, job: str) -> Result:
        """Make a full throughput result: download, upload, radio before and after."""
        outcome = self._fill(Throughput)
        outcome = msgspec.structs.replace(outcome, radio_before=self.reading(at_s), radio_after=self.reading(at_s + 15))
        lease = f"{self._random.getrandbits(64):016x}"
        first = 5201 + 2 * self._random.randrange(8)
        server = Server(host="203.0.113.5", ports=(first, first + 1), responder="hcm-1", lease=lease)
        return self._result(at_s, Job(name=job, measurement="throughput", due=_at(at_s)), outcome, server)

    def latency(self, at_s: float, job: str) -> Result:
        """Make a full latency result."""
        server = Server(host="203.0.113.5", responder="hcm-1")
        carried = round(self._random.gauss(_LATENCY_BYTES, 300))
        outcome = msgspec.structs.replace(self._fill(Latency), interface_bytes=carried)
        return self._result(at_s, Job(name=job, measurement="latency", due=_at(at_s)), outcome, server)

    def radio(self, at_s: float, job: str, outcome: Outcome) -> Result:
        """Make the result of a look at the radio."""
        return self._result(at_s, Job(name=job, measurement="radio", due=_at(at_s)), outcome, None)

    def other(self, at_s: float, job: str, measurement: str) -> Result:
        """Make a full result of any measurement that has an outcome of its own."""
        kind = next(kind for kind in get_args(Outcome) if kind.__struct_config__.tag == measurement)
        return self._result(at_s, Job(name=job, measurement=measurement, due=_at(at_s)), self._fill(kind), None)

    def of_the_link(self, at_s: float, outcome: Outcome) -> Result:
        """Make a result that is of no job's run."""
        return self._result(at_s, None, outcome, None)

    def _result(self, at_s: float, job: Job | None, outcome: Outcome, server: Server | None) -> Result:
        route = Route(
            interface="wwan0",
            source_address="10.64.3.7" if server is not None else None,
            operator="Viettel",
            iccid_sha256="9b1f0c2e4d5a68778695a4b3c2d1e0f0112233445566778899aabbccddeeff00",
            modem="EC25",
            server=server,
        )
        return Result(
            probe_id=self._probe_id,
            site=self._site,
            link=self._link,
            job=job,
            used=route if job is not None else None,
            started_at=_at(at_s + self._random.uniform(0, 3)),
            elapsed_s=round(self._random.uniform(0.2, 20.0), 3),
            clock=Clock(synchronised=True, estimated_error_ms=round(self._random.uniform(0.5, 3.0), 3)),
            agent_version="0.1.0",
            outcome=outcome,
        )

    def _fill(self, kind: Any) -> Any:  # noqa: ANN401  # any message
        info = inspect.type_info(kind)
        if not isinstance(info, inspect.StructType):
            raise TypeError(kind)
        values = {field.name: self._value(field.name, field.type) for field in info.fields}
        return kind(**{name: value for name, value in values.items() if value is not None})

    def _value(self, name: str, kind: inspect.Type) -> Any:  # noqa: ANN401  # whatever the field holds
        if name in _LEFT_OUT or name.startswith("radio_"):
            return None
        if isinstance(kind, inspect.UnionType):
            kind = next(one for one in kind.types if not isinstance(one, inspect.NoneType))
        if isinstance(kind, inspect.StructType):
            return self._fill(kind.cls)
        if isinstance(kind, inspect.VarTupleType | inspect.ListType):
            if isinstance(kind.item_type, inspect.EnumType):  # what was seen, and mostly that is one thing
                return (next(iter(kind.item_type.cls)),)
            return tuple(self._value(name, kind.item_type) for _ in range(_INTERVALS))
        return self._plain(name, kind)

    def _plain(self, name: str, kind: inspect.Type) -> Any:  # noqa: ANN401  # as above
        match kind:
            case inspect.EnumType():
                return next(iter(kind.cls))
            case inspect.BoolType():
                return self._random.getrandbits(1) == 1
            case inspect.DictType():
                return {}
            case inspect.StrType():
                return _WORDS.get(name, name)
            case _:
                return self._number(name, whole=isinstance(kind, inspect.IntType))

    def _number(self, name: str, *, whole: bool) -> float:
        if name in _FIXED:
            return _FIXED[name]
        mean, spread, digits = next(
            (form for end, form in _AROUND.items() if name.endswith(end)), (20.0, 10.0, 0 if whole else 1)
        )
        value = max(0.0, self._random.gauss(mean, spread))
        return int(value) if whole else round(value, digits)


def flat(result: Result) -> bytes:
    """Write a throughput result as a flat record with its main figures, as most tools of this kind publish one."""
    outcome = result.outcome
    if not isinstance(outcome, Throughput) or outcome.upload is None or outcome.radio_after is None:
        raise TypeError(outcome)
    radio = outcome.radio_after
    record = {
        "device": result.probe_id,
        "site": result.site,
        "operator": radio.operator,
        "technology": radio.technology,
        "timestamp": result.started_at.isoformat(),
        "download_mbps": outcome.download.mbps,
        "upload_mbps": outcome.upload.mbps,
        "download_bytes": outcome.download.payload_bytes,
        "upload_bytes": outcome.upload.payload_bytes,
        "latency_ms": outcome.download.tcp_rtt_mean_ms,
        "retransmits": outcome.download.retransmits,
        "duration_s": outcome.download.elapsed_s,
        "server": result.used.server.host if result.used is not None and result.used.server is not None else None,
        "band": radio.band,
        "cell_id": radio.cell_id,
        "pci": radio.pci,
        "rsrp_dbm": radio.rsrp_dbm,
        "rsrq_db": radio.rsrq_db,
        "sinr_db": radio.sinr_db,
    }
    return msgspec.json.encode(record)


def _at(at_s: float) -> datetime:
    return datetime.fromtimestamp(round(at_s, 6), UTC)
