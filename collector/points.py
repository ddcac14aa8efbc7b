"""Results and statuses as InfluxDB line protocol. Pure: one result makes exactly one line, the same one every time.

The measurement is the outcome's kind. Tags are names of ours and what the radio said; everything else is a field. The
time is the result's start in ns: its microseconds, then seq modulo 1000 in the last three digits, so that two results
of one series never share a time. A result that travels under another number keeps the digits of its first: written
twice, by two collectors, it is still one point. Syntax and escapes: InfluxDB 1.x "Line protocol reference"; no
backslash, quote or control character ever stands in a tag, and no line break in a string field, because servers read
those differently.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Final

from collector.instants import is_ahead, microseconds
from collector.service_points import echo_fields, service_fields, way
from wire.events import Damaged, Dropped, Missed, PlanState, Recovery
from wire.measured import Capacity, Dns, Failed, Latency, Ping, Radio, Throughput, Transfer, Web

if TYPE_CHECKING:
    from wire.radio import RadioReading
    from wire.results import Result
    from wire.status import ResponderStatus, Status

Value = float | int | bool | str | None
Fields = dict[str, Value]

MAX_STRING_CHARS: Final = 1000
_MAX_COUNT: Final = 2**53

_CONTROL: Final = (*range(0x20), 0x7F, 0x85, 0x2028, 0x2029)
_TAG: Final = str.maketrans(
    {'"': "'", "\\": "/", ",": "\\,", "=": "\\=", " ": "\\ "} | dict.fromkeys(map(chr, _CONTROL), "\\ ")
)
_STRING: Final = str.maketrans({'"': '\\"', "\\": "\\\\"} | dict.fromkeys(map(chr, _CONTROL), " "))
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_COUNTED: Final = (
    *("throughput", "latency", "ping", "dns", "web", "radio", "failed", "dropped", "damaged", "recovery", "plan"),
    *("missed", "capacity"),
)


def line(result: Result) -> str:
    """Write one result as one line, without a line break at its end."""
    outcome = result.outcome
    tags: dict[str, str | None] = {
        "probe": result.probe_id,
        "site": result.site,
        "link": result.link,
        "job": result.job.name if result.job else None,
    }
    fields: Fields = {"seq": result.seq, "spool_id": result.spool_id, "elapsed_s": result.elapsed_s}
    fields["agent_version"] = result.agent_version
    fields["clock_synchronised"] = result.clock.synchronised
    fields["clock_correction_s"] = result.clock.correction_s
    radio: RadioReading | None = None
    if isinstance(outcome, Radio):  # nine in ten
        kind, radio = "radio", outcome.reading
        fields |= _radio(radio) | _radio_alone(radio) | _folded(outcome)
    elif isinstance(outcome, Throughput):
        kind, radio = "throughput", outcome.radio_after or outcome.radio_before
        fields |= _throughput(outcome)
        fields |= _server(result)
        fields |= _radio(radio)
    elif isinstance(outcome, Latency):
        kind = "latency"
        fields |= _latency(outcome)
    elif isinstance(outcome, Ping | Dns | Web | Capacity):
        kind, radio = str(type(outcome).__struct_config__.tag), outcome.radio if isinstance(outcome, Capacity) else None
        fields |= service_fields(outcome) | _server(result) | _radio(radio)
    elif isinstance(outcome, Failed):
        kind, radio = "failed", outcome.radio
        tags |= {"measurement": result.job.measurement if result.job else None, "reason": outcome.reason.value}
        fields["detail"] = outcome.detail or None
        fields["trace"] = way(outcome.trace)
        fields["interface_bytes"] = outcome.interface_bytes
    elif isinstance(outcome, Recovery):
        kind, radio = "recovery", (outcome.after or outcome.before).radio
        fields |= _recovery(outcome)
        fields |= _radio(radio)
    elif isinstance(outcome, PlanState):
        kind = "plan"
        fields |= _plan(outcome)
    elif isinstance(outcome, Missed):
        kind = "missed"
        tags |= {"measurement": result.job.measurement if result.job else None, "reason": outcome.reason.value}
        fields |= _missed(outcome)
    elif isinstance(outcome, Damaged):
        kind = "damaged"
        fields |= _damaged(outcome)
    else:
        kind = "dropped"
        fields |= _dropped(outcome)
    tags["operator"] = (result.used.operator if result.used else None) or (radio.operator if radio else None)
    tags["technology"] = radio.technology.value if radio and radio.technology else None
    seq = result.formerly.seq if result.formerly is not None else result.seq
    time_ns = microseconds(result.started_at) * 1000 + seq % 1000
    return _write(kind, tags, fields, time_ns)


def status_time_us(status: Status, received_us: int) -> int:
    """Return when a status was made; a last will, which has no time, or a wrong clock gets its arrival's."""
    if status.at is None or status.clock.synchronised is False:
        return received_us
    at_us = microseconds(status.at)
    return received_us if is_ahead(at_us, received_us) else at_us


def status_line(status: Status, at_us: int) -> str:
    """Write a status as a point of `probe`."""
    fields: Fields = {
        "online": status.online,
        "backlog": status.backlog,
        "undated": status.undated,
        "spooled": status.spooled,
        "agent_version": status.agent_version,
    }
    return _write("probe", {"probe": status.probe_id, "site": status.site}, fields, at_us * 1000)


def shared_id_line(probe_id: str, agents: str, received_us: int) -> str:
    """Write that two agents share a probe id as a point of `shared_id`, and who they are."""
    return _write("shared_id", {"probe": probe_id}, {"agents": agents}, received_us * 1000)


def responder_line(status: ResponderStatus, received_us: int) -> str:
    """Write a responder's status as a point of `responder`, with what it has counted since its start as fields."""
    at_us = microseconds(status.at) if status.at is not None and status.online else received_us
    fields: Fields = {
        "online": status.online,
        "ports": status.ports,
        "link_mbps": status.link_mbps,
        "lent_mbps": status.lent_mbps,
        "testing": status.testing,
        "waiting": status.waiting,
        "turned_away": status.turned_away,
        "group": status.group,
        **{f"{name}_count": count for name, count in status.counts.items() if _NAME.fullmatch(name)},
    }
    return _write("responder", {"responder": status.responder}, fields, at_us * 1000)


def gap_line(probe: str, at_us: int, *, open_count: int, dropped: int, gone: int) -> str:
    """Write how many results of a probe the journal lacks, by what is known of them (`collector.gaps`).

    No more than 2^53: what is beyond is no count, and the database would refuse what is beyond 2^63.
    """
    counts = {"open": open_count, "dropped": dropped, "gone": gone, "missing": open_count + dropped + gone}
    fields: Fields = {name: min(count, _MAX_COUNT) for name, count in counts.items()}
    return _write("gap", {"probe": probe}, fields, at_us * 1000)


def _throughput(outcome: Throughput) -> Fields:
    down, up = outcome.download, outcome.upload
    transfers = [down] if up is None else [down, up]
    retransmits = [transfer.retransmits for transfer in transfers if transfer.retransmits is not None]
    return {
        "download_mbps": _mean(down),
        "download_steady_mbps": down.steady_mbps,
        "download_bytes": down.payload_bytes,
        "upload_mbps": _mean(up) if up else None,
        "upload_steady_mbps": up.steady_mbps if up else None,
        "upload_bytes": up.payload_bytes if up else None,
        "upload_failure": outcome.upload_failure.value if outcome.upload_failure else None,
        "interface_bytes": _total([transfer.interface_bytes for transfer in transfers]),
        "other_interfaces_bytes": _total([transfer.other_interfaces_bytes for transfer in transfers]),
        "retransmits": sum(retransmits) if retransmits else None,
        "family": down.family,
        "omit_s": down.omit_s,
        "streams": down.streams,
        "congestion": down.congestion,
        "rtt_idle_ms": outcome.idle.median_ms if outcome.idle else None,
        "rtt_idle_p95_ms": outcome.idle.p95_ms if outcome.idle else None,
        **_under_load("download", down),
        **(_under_load("upload", up) if up else {}),
        "technologies_during": ",".join(outcome.technologies_during) or None,
        "cpu_percent": outcome.machine.cpu_percent if outcome.machine else None,
        "cpu_share": max(
            (transfer.cpu_share for transfer in transfers if transfer.cpu_share is not None), default=None
        ),
        "throttled": outcome.machine.throttled if outcome.machine else None,
        "valid": outcome.valid,
        "invalid": ",".join(outcome.invalid) or None,
    }


def _under_load(direction: str, transfer: Transfer) -> Fields:
    loaded = transfer.loaded
    return {
        f"{direction}_rtt_ms": loaded.median_ms if loaded else None,
        f"{direction}_rtt_p95_ms": loaded.p95_ms if loaded else None,
        f"{direction}_rpm": round(loaded.responsiveness_rpm, 1) if loaded else None,
        f"{direction}_tcp_rtt_min_ms": transfer.tcp_rtt_min_ms,
        f"{direction}_tcp_rtt_mean_ms": transfer.tcp_rtt_mean_ms,
        f"{direction}_tcp_rtt_max_ms": transfer.tcp_rtt_max_ms,
    }


def _mean(transfer: Transfer) -> float:
    """Return the mean over the whole transfer, slow start included; where nobody saw its start, the steady mean."""
    return transfer.steady_mbps if transfer.mbps is None else transfer.mbps


def _total(counts: list[int | None]) -> int | None:
    """Add up; a part that was not counted leaves the whole unknown, not smaller."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _server(result: Result) -> Fields:
    server = result.used.server if result.used else None
    if server is None:
        return {}
    return {
        "server": server.host,
        "responder": server.responder,
        "server_load_percent": server.load_percent,
        "server_waited_s": server.waited_s,
    }


def _latency(outcome: Latency) -> Fields:
    return {
        **echo_fields(outcome.udp),
        "loss_up_percent": outcome.loss_up_percent,
        "loss_down_percent": outcome.loss_down_percent,
        **echo_fields(outcome.icmp, "icmp_"),
        "interface_bytes": outcome.interface_bytes,
    }


def _radio(reading: RadioReading | None) -> Fields:
    if reading is None:
        return {}
    return {
        "rsrp_dbm": reading.rsrp_dbm,
        "rsrq_db": reading.rsrq_db,
        "sinr_db": reading.sinr_db,
        "rssi_dbm": reading.rssi_dbm,
        "band": reading.band,
        "earfcn": reading.earfcn,
        "pci": reading.pci,
        "cell_id": reading.cell_id,
        "enodeb_id": reading.enodeb_id,
        "bandwidth_mhz": reading.bandwidth_mhz,
    }


def _radio_alone(reading: RadioReading) -> Fields:
    return {
        "nr_band": reading.nr_band,
        "nr_arfcn": reading.nr_arfcn,
        "nr_pci": reading.nr_pci,
        "nr_rsrp_dbm": reading.nr_rsrp_dbm,
        "nr_rsrq_db": reading.nr_rsrq_db,
        "nr_sinr_db": reading.nr_sinr_db,
        "temperature_c": reading.temperature_c,
        "registration": reading.registration.value if reading.registration else None,
    }


def _folded(outcome: Radio) -> Fields:
    """Say how many looks a record stands for, and the extremes of their levels."""
    fields: Fields = {"samples": outcome.samples}
    for end, reading in (("min", outcome.lowest), ("max", outcome.highest)):
        if reading is not None:
            fields |= {
                f"rsrp_{end}_dbm": reading.rsrp_dbm,
                f"rsrq_{end}_db": reading.rsrq_db,
                f"sinr_{end}_db": reading.sinr_db,
                f"rssi_{end}_dbm": reading.rssi_dbm,
            }
    return fields


def _recovery(outcome: Recovery) -> Fields:
    return {
        "rung": outcome.rung,
        "action": outcome.action,
        "before": outcome.before.condition.value,
        "before_detail": outcome.before.detail or None,
        "after": outcome.after.condition.value if outcome.after else None,
        "after_detail": (outcome.after.detail or None) if outcome.after else None,
        "cured": outcome.cured,
        "detail": outcome.detail or None,
    }


def _plan(outcome: PlanState) -> Fields:
    return {
        "day": outcome.day,
        "quota_day_bytes": outcome.quota_day_mb * 1_000_000 if outcome.quota_day_mb is not None else None,
        "quota_month_bytes": outcome.quota_month_mb * 1_000_000 if outcome.quota_month_mb is not None else None,
        "spent_day_bytes": outcome.spent_day_bytes,
        "spent_month_bytes": outcome.spent_month_bytes,
        "left_bytes": outcome.left_bytes,
        "left_by_hand_bytes": outcome.left_by_hand_bytes,
        "allowance_bytes": outcome.allowance_bytes,
        "runs_planned": outcome.runs_planned,
        "runs_made": outcome.runs_made,
        "runs_dropped": outcome.runs_dropped,
        "uploads_dropped": outcome.uploads_dropped,
        "remaining_bytes": outcome.remaining_bytes,
        "balance_doubt": outcome.balance_doubt,
        "next_run_at": outcome.next_run_at.isoformat() if outcome.next_run_at is not None else None,
    }


def _dropped(outcome: Dropped) -> Fields:
    """One field per kind that we know; others together, so that a probe cannot invent columns."""
    fields: Fields = {f"{kind}_count": outcome.counts.get(kind) for kind in _COUNTED}
    others = [count for kind, count in outcome.counts.items() if kind not in _COUNTED]
    fields["other_count"] = sum(others) if others else None
    return fields | {"first_seq": outcome.first_seq, "last_seq": outcome.last_seq, "of_spool": outcome.spool_id or None}


def _damaged(outcome: Damaged) -> Fields:
    return {
        "saved": outcome.saved,
        "unreadable": outcome.unreadable,
        "detail": outcome.detail or None,
        "kept_as": outcome.kept_as or None,
    }


def _missed(outcome: Missed) -> Fields:
    """Say how many runs, and the span of their turns in Unix seconds."""
    return {"count": outcome.count, "first_s": outcome.first.timestamp(), "last_s": outcome.last.timestamp()}


def _write(measurement: str, tags: dict[str, str | None], fields: Fields, time_ns: int) -> str:
    """Write a line; missing tags and fields and numbers that are none are left out."""
    parts = []
    for key, value in fields.items():  # some 25 of each result: the frequent kinds come first
        if value is None:
            continue
        kind = type(value)
        if kind is float:
            if isfinite(value):  # type: ignore[arg-type]  # the line above
                parts.append(f"{key}={value!r}")
        elif kind is int:
            parts.append(f"{key}={value}i")
        elif isinstance(value, str):
            parts.append(f"{key}={_string(value)}")
        else:
            parts.append(f"{key}=true" if value else f"{key}=false")
    return f"{measurement}{_tags(tuple(tags.items()))} {','.join(parts)} {time_ns}"


@lru_cache(maxsize=4096)
def _tags(tags: tuple[tuple[str, str | None], ...]) -> str:
    """Write the tags, the same again and again, sorted: the database asks for that."""
    return "".join([f",{key}={text}" for key, value in sorted(tags) if value and (text := _tag(value))])


def _tag(value: str) -> str:
    return value[:MAX_STRING_CHARS].strip().translate(_TAG)


@lru_cache(maxsize=2048)
def _string(value: str) -> str:
    return f'"{value[:MAX_STRING_CHARS].translate(_STRING)}"'
