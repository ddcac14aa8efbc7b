from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from collector_helpers import READING, START, failed, radio, result
from hypothesis import given
from hypothesis import strategies as st

from collector import points
from wire import codec
from wire.events import Diagnosis, Dropped, Missed, PlanState, Recovery
from wire.measured import (
    Capacity,
    Dns,
    Echo,
    Failed,
    Latency,
    Lookup,
    Page,
    Ping,
    Radio,
    RoundTrips,
    Throughput,
    Transfer,
    Web,
)
from wire.radio import RadioReading
from wire.reasons import Condition, Invalid, Reason, Unmade
from wire.results import Clock, Job, Result, Route, Server
from wire.status import ResponderStatus, Status

GOLDEN = Path(__file__).parents[1] / "golden"
NS = 1_782_907_200_000_000_000  # START, in ns


def parse(line: str) -> tuple[str, dict[str, str], dict[str, Any], int]:
    """Read a line the way the reference describes it, one character at a time; raise on whatever it does not."""
    head, body, time = _split(line, " ")
    measurement, *tags = _split(head, ",")
    return (
        measurement,
        {key: _plain(value) for key, value in (_split(tag, "=") for tag in tags)},
        {key: _value(text) for key, _, text in (pair.partition("=") for pair in _split(body, ","))},
        int(time),
    )


def _split(text: str, at: str) -> list[str]:
    """Split where the character is neither escaped nor within quotes, which only fields have."""
    parts, escaped, quoted = [""], False, False
    for char in text:
        if char == at and not (escaped or quoted):
            parts.append("")
            continue
        quoted ^= char == '"' and not escaped
        escaped = char == "\\" and not escaped
        parts[-1] += char
    assert not escaped
    assert not quoted
    return parts


def _plain(tag: str) -> str:
    return tag.replace("\\,", ",").replace("\\=", "=").replace("\\ ", " ")


def _value(text: str) -> float | str:
    if text in {"true", "false"}:
        return text == "true"
    if text.startswith('"'):
        assert text.endswith('"')
        out, escaped = "", False
        for char in text[1:-1]:
            if escaped or char != "\\":
                assert escaped or char != '"'
                out, escaped = out + char, False
            else:
                escaped = True
        return out
    return int(text[:-1]) if text.endswith("i") else float(text)


def test_a_throughput_result_is_written_as_dashboards_expect_it() -> None:
    assert points.line(result(1)) == (
        "throughput,job=light,link=viettel,operator=Viettel,probe=p1,site=tan-phong,technology=lte"
        ' seq=1i,spool_id="s1",elapsed_s=11.5,agent_version="0.1.0",clock_synchronised=true,'
        "download_mbps=40.25,download_steady_mbps=42.5,download_bytes=25000000i,"
        "upload_mbps=11.0,upload_steady_mbps=12.0,upload_bytes=7000000i,interface_bytes=33i,"
        "omit_s=0.0,streams=1i,valid=true,"
        'server="192.0.2.7",responder="r1",'
        "rsrp_dbm=-97.0,rsrq_db=-11.5,sinr_db=8.0,band=3i,earfcn=1300i,pci=77i,cell_id=1234567i,enodeb_id=4822i,"
        f"bandwidth_mhz=20.0 {NS + 1_000_000_001}"
    )


def test_a_failed_run_has_its_reason_as_a_tag_and_no_figures() -> None:
    assert points.line(failed(1002)) == (
        "failed,job=light,link=viettel,measurement=throughput,probe=p1,reason=busy,site=tan-phong"
        ' seq=1002i,spool_id="s1",elapsed_s=11.5,agent_version="0.1.0",clock_synchronised=true,detail="try later"'
        f" {NS + 1_002_000_000_002}"
    )


def test_a_radio_reading_of_its_own_says_how_it_is_registered() -> None:
    measurement, tags, fields, _ = parse(points.line(radio(1)))
    assert (measurement, tags["operator"], tags["technology"]) == ("radio", "Viettel", "lte")
    assert (fields["registration"], fields["rsrp_dbm"]) == ("home", -97.0)


def test_latency_tells_up_from_down_and_keeps_the_second_opinion() -> None:
    udp = Echo(tool="irtt", sent=100, received=97, loss_percent=3.0, rtt_median_ms=41.5, jitter_ms=2.5)
    icmp = Echo(tool="fping", sent=20, received=20, loss_percent=0.0, rtt_mean_ms=43.0)
    outcome = Latency(udp=udp, loss_up_percent=1.0, loss_down_percent=2.0, icmp=icmp)
    measurement, _, fields, _ = parse(points.line(result(1, outcome=outcome)))
    assert measurement == "latency"
    assert fields["sent"] == 100
    assert (fields["loss_percent"], fields["loss_up_percent"], fields["loss_down_percent"]) == (3.0, 1.0, 2.0)
    assert (fields["icmp_rtt_mean_ms"], fields["icmp_loss_percent"]) == (43.0, 0.0)
    assert "rtt_min_ms" not in fields


def golden(kind: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    one = codec.decode_result((GOLDEN / f"v0.1.0-{kind}.json").read_bytes())
    measurement, tags, fields, _ = parse(points.line(one))
    return measurement, tags, fields


def test_a_ping_has_each_way_and_each_jitter_by_its_name() -> None:
    measurement, tags, fields = golden("ping")
    assert (measurement, tags["link"], fields["server"]) == ("ping", "viettel", "speed.example.vn")
    assert (fields["icmp_rtt_mean_ms"], fields["tcp_loss_percent"], fields["http_rtt_median_ms"]) == (41.8, 10.0, 43.8)
    assert (fields["http_jitter_ms"], fields["http_jitter_rfc3550_ms"], fields["http_jitter_variance_ms2"]) == (
        1.8,
        0.844,
        9.61,
    )
    assert (fields["mtu_bytes"], fields["mtu_exact"], fields["mtu_black_hole"]) == (1430, True, True)
    assert fields["interface_bytes"] == 14200
    _, _, partly = golden("ping-partly")
    assert partly["failures"] == "tcp: refused, http: http_status"
    assert not {name for name in partly if name.startswith(("tcp_", "http_"))}


def test_look_ups_are_counted_and_those_that_failed_are_named() -> None:
    measurement, _, fields = golden("dns")
    assert (measurement, fields["lookups"], fields["failed"], fields["tcp"]) == ("dns", 4, 2, 1)
    assert (fields["answer_mean_ms"], fields["answer_max_ms"]) == (89.6, 131.0), "of good answers"
    assert fields["failures"] == "no-such.example.vn no_such_name (10.64.0.53), slow.example.vn timeout (10.64.0.53)"
    assert (fields["servers"], fields["interface_bytes"]) == ("10.64.0.53", 1650)


def test_pages_have_the_mean_of_each_step_of_those_that_came() -> None:
    measurement, _, fields = golden("web")
    assert (measurement, fields["pages"], fields["failed"], fields["capped"]) == ("web", 3, 1, 1)
    assert (fields["dns_mean_ms"], fields["tls_mean_ms"]) == (49.6, 96.4)
    assert (fields["ttfb_mean_ms"], fields["total_mean_ms"], fields["total_max_ms"]) == (191.75, 403.35, 655.9)
    assert fields["failures"] == "https://old.example.vn/ tls_failed"
    assert (fields["body_bytes"], fields["interface_bytes"]) == (300_812, 331_000)


def test_a_failure_has_the_way_that_was_found_and_its_bytes() -> None:
    measurement, tags, fields = golden("failed-traced")
    assert (measurement, tags["reason"]) == ("failed", "timeout")
    assert fields["trace"] == "1 10.64.0.1 23.4 ms, 2 *, 3 198.51.100.7 31 ms"
    assert fields["interface_bytes"] == 2480


def test_a_step_of_the_recovery_ladder_says_what_was_done_and_how_the_link_was_before_and_after() -> None:
    before = Diagnosis(condition=Condition.NOT_REGISTERED, detail="searching")
    after = Diagnosis(condition=Condition.HEALTHY, radio=READING)
    outcome = Recovery(rung=2, action="radio off and on", before=before, after=after, detail="AT+CFUN=1: OK")
    measurement, tags, fields, _ = parse(points.line(result(1, outcome=outcome)))
    assert (measurement, tags["link"], tags["operator"]) == ("recovery", "viettel", "Viettel")
    assert (fields["rung"], fields["before"], fields["after"], fields["cured"]) == (
        2,
        "not_registered",
        "healthy",
        True,
    )
    assert fields["rsrp_dbm"] == -97.0


def test_an_alert_of_the_ladder_has_no_after_and_cures_nothing() -> None:
    outcome = Recovery(rung=0, action="alert", before=Diagnosis(condition=Condition.SIM_ABSENT))
    _, _, fields, _ = parse(points.line(result(1, outcome=outcome)))
    assert (fields["before"], fields["cured"], "after" in fields) == ("sim_absent", False, False)


def test_the_state_of_a_data_plan_says_what_is_spent_left_and_left_out() -> None:
    outcome = PlanState(
        day="2026-06-15", quota_month_mb=30, spent_day_bytes=5, spent_month_bytes=7, left_bytes=11, runs_dropped=2
    )
    measurement, tags, fields, _ = parse(points.line(result(1, job=None, outcome=outcome)))
    assert (measurement, tags["link"], "job" in tags) == ("plan", "viettel", False)
    assert (fields["quota_month_bytes"], "quota_day_bytes" in fields) == (30_000_000, False)
    assert (fields["spent_day_bytes"], fields["spent_month_bytes"], fields["left_bytes"]) == (5, 7, 11)
    assert (fields["runs_dropped"], fields["runs_made"], fields["day"]) == (2, 0, "2026-06-15")


def test_dropped_counts_go_by_kind_and_invent_no_columns() -> None:
    outcome = Dropped(counts={"radio": 7, "latency": 2, "made up": 1}, first_seq=3, last_seq=12)
    changes: dict[str, Any] = {"link": None, "job": None, "used": None, "outcome": outcome}
    measurement, tags, fields, _ = parse(points.line(result(13, **changes)))
    assert measurement == "dropped"
    assert tags == {"probe": "p1", "site": "tan-phong"}
    counts = {key: fields[key] for key in ("radio_count", "latency_count", "other_count", "first_seq", "last_seq")}
    assert counts == {"radio_count": 7, "latency_count": 2, "other_count": 1, "first_seq": 3, "last_seq": 12}


def test_the_mean_is_over_the_whole_transfer_and_steady_only_where_nobody_saw_its_start() -> None:
    download = Transfer(steady_mbps=42.5, payload_bytes=1, elapsed_s=1.0, interface_bytes=3)
    upload = Transfer(steady_mbps=9.0, mbps=8.0, payload_bytes=1, elapsed_s=1.0)
    outcome = Throughput(
        download=download, upload=upload, invalid=(Invalid.ROAMING, Invalid.CUT_SHORT), radio_before=READING
    )
    _, tags, fields, _ = parse(points.line(result(1, outcome=outcome)))
    assert (fields["download_mbps"], fields["upload_mbps"]) == (42.5, 8.0)
    assert "interface_bytes" not in fields, "half counted is not counted"
    assert (fields["valid"], fields["invalid"]) == (False, "roaming,cut_short")
    assert tags["technology"] == "lte"


def test_two_results_of_one_instant_have_different_times() -> None:
    lines = [points.line(radio(seq, started_at=START)) for seq in range(1, 1000)]
    assert len({parse(line)[3] for line in lines}) == len(lines)


def test_a_status_is_a_point() -> None:
    online = Status(probe_id="p1", online=True, site="s", at=START, agent_version="0.1.0", backlog=3, spooled=9)
    expected = f'probe,probe=p1,site=s online=true,backlog=3i,undated=0i,spooled=9i,agent_version="0.1.0" {NS}'
    assert points.status_line(online, NS // 1000) == expected


def test_a_status_takes_its_own_time_and_a_last_will_or_a_wrong_clock_that_of_its_arrival() -> None:
    start_us = NS // 1000
    later_us = start_us + 1

    def time_us(received_us: int, at: datetime | None = START, *, synchronised: bool | None = None) -> int:
        status = Status(probe_id="p1", online=False, at=at, clock=Clock(synchronised=synchronised))
        return points.status_time_us(status, received_us)

    assert time_us(later_us) == time_us(later_us, synchronised=True) == start_us
    assert time_us(later_us, None) == later_us
    assert time_us(later_us, synchronised=False) == later_us, "it may be behind"
    assert time_us(5) == 5, "its clock is ahead"


def test_what_is_missing_is_a_number_that_the_database_takes() -> None:
    fields = parse(points.gap_line("p1", 5, open_count=2**63, dropped=3, gone=2**62))[2]
    assert fields == {"open": 2**53, "dropped": 3, "gone": 2**53, "missing": 2**53}


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
texts = st.text(max_size=60)
nasty = st.text(alphabet="ab ,=\"\\\n\r\t\0#'\u2028é", max_size=12)
free = st.one_of(texts, nasty)
maybe_float = st.none() | st.floats(allow_nan=True, allow_infinity=True)
count = st.integers(0, 2**63 - 1)
transfers = st.builds(
    Transfer, steady_mbps=st.floats(), mbps=maybe_float, payload_bytes=count, elapsed_s=st.floats(0, 60)
)
reasons = st.none() | st.sampled_from(Reason)
outcomes = st.one_of(
    st.builds(
        Throughput,
        download=transfers,
        upload=st.none() | transfers,
        radio_after=st.none() | st.just(READING),
        invalid=st.lists(st.sampled_from(Invalid), max_size=3).map(tuple),
    ),
    st.builds(Failed, reason=st.sampled_from(Reason), detail=free),
    st.builds(Radio, reading=st.just(READING)),
    st.builds(Dns, lookups=st.lists(st.builds(Lookup, name=free, server=free, failure=reasons), max_size=3).map(tuple)),
    st.builds(Web, pages=st.lists(st.builds(Page, url=free, ttfb_ms=maybe_float), max_size=3).map(tuple)),
    st.builds(Ping, failures=st.dictionaries(free, st.sampled_from(Reason), max_size=3)),
    st.builds(Dropped, counts=st.dictionaries(free, count, max_size=4), first_seq=count, last_seq=count),
)
results = st.builds(
    Result,
    probe_id=names,
    spool_id=free,
    seq=count,
    site=names,
    link=st.none() | names,
    job=st.none() | st.builds(Job, name=names, measurement=free),
    used=st.none() | st.builds(Route, interface=free, operator=st.none() | free, server=st.builds(Server, host=free)),
    started_at=st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1)).map(  # noqa: DTZ001  # next line
        lambda moment: moment.replace(tzinfo=UTC)
    ),
    agent_version=free,
    outcome=outcomes,
)


@given(results)
def test_whatever_a_probe_says_makes_one_line_that_reads_back_the_same(one: Result) -> None:
    line = points.line(one)
    assert len(line.splitlines()) == 1
    measurement, tags, fields, time_ns = parse(line)
    assert measurement == one.outcome.__struct_config__.tag
    assert (tags["probe"], tags["site"], tags.get("link")) == (one.probe_id, one.site, one.link)
    assert all(tags.values()), "a tag has a value or is not there"
    assert fields["seq"] == one.seq
    assert _folded(fields["agent_version"]) == _folded(one.agent_version)
    if isinstance(one.outcome, Failed) and one.outcome.detail:
        assert _folded(fields["detail"]) == _folded(one.outcome.detail)
    if isinstance(one.outcome, Throughput) and math.isfinite(one.outcome.download.steady_mbps):
        assert fields["download_steady_mbps"] == one.outcome.download.steady_mbps
    assert not any(isinstance(value, float) and not math.isfinite(value) for value in fields.values())
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
    assert (start, time_ns % 1000) == (one.started_at, one.seq % 1000)


def _folded(text: str) -> str:
    return "".join(" " if ord(char) < 0x20 or char in "\x7f\x85\u2028\u2029" else char for char in text)


@pytest.mark.parametrize("operator", ["Mạng Việt", "a,b=c d", "tail\\", "\\,", "two\nlines", " ", "\t"])
def test_an_operator_of_any_spelling_stays_in_its_tag(operator: str) -> None:
    one = radio(1, used=Route(interface="wwan0", operator=operator))
    _, tags, fields, _ = parse(points.line(codec.decode_result(codec.encode(one))))
    assert tags.get("operator", "") == _folded(operator).replace("\\", "/").strip()
    assert fields["seq"] == 1


def test_a_responders_status_is_a_point_of_its_own() -> None:
    status = ResponderStatus(
        responder="r1", ports=6, link_mbps=1000.0, lent_mbps=120.5, testing=2, counts={"granted": 7}
    )
    assert points.responder_line(status, 1_000_001) == (
        "responder,responder=r1 online=true,ports=6i,link_mbps=1000.0,lent_mbps=120.5,testing=2i,waiting=0i,"
        "turned_away=0i,granted_count=7i 1000001000"
    )


def test_folded_looks_are_counted_with_their_extremes() -> None:
    reading = RadioReading(rsrp_dbm=-97)
    outcome = Radio(
        reading=reading, samples=7, lowest=RadioReading(rsrp_dbm=-99), highest=RadioReading(rsrp_dbm=-95, sinr_db=9)
    )
    text = points.line(result(3, outcome=outcome))
    for field in ("samples=7i", "rsrp_min_dbm=-99", "rsrp_max_dbm=-95", "sinr_max_db=9"):
        assert field in text
    assert "sinr_min_db" not in text, "what no look told is no figure"


def test_missed_runs_are_one_point_with_their_count_and_span() -> None:
    outcome = Missed(count=3, first=START, last=START + timedelta(hours=2), reason=Unmade.AGENT_OFF)
    text = points.line(result(3, outcome=outcome))
    assert text.startswith("missed,job=light,link=viettel,measurement=throughput,probe=p1,reason=agent_off,")
    assert f"count=3i,first_s={START.timestamp()},last_s={START.timestamp() + 7200}" in text


def test_a_capacity_is_a_point_of_its_own_kind() -> None:
    outcome = Capacity(direction="download", received_mbps=62.5, asked_mbps=120.0, full=True, loss_percent=40.1)
    measurement, tags, fields, _ = parse(points.line(msgspec.structs.replace(result(1), outcome=outcome)))
    assert (measurement, tags["job"]) == ("capacity", "light")
    assert (fields["direction"], fields["received_mbps"], fields["full"]) == ("download", 62.5, True)
    assert "valid" not in fields, "it is never a sample"


def test_round_trips_beside_a_test_are_told_in_ms_and_per_minute() -> None:
    whole = result(1).outcome
    assert isinstance(whole, Throughput)
    idle = RoundTrips(tool="irtt", count=50, median_ms=50.4, p95_ms=53.0)
    loaded = RoundTrips(tool="irtt", count=60, median_ms=220.9, p95_ms=249.7)
    download = msgspec.structs.replace(whole.download, loaded=loaded, tcp_rtt_mean_ms=201.5, family="ipv4")
    outcome = msgspec.structs.replace(whole, download=download, idle=idle)
    _, _, fields, _ = parse(points.line(msgspec.structs.replace(result(1), outcome=outcome)))
    assert (fields["rtt_idle_ms"], fields["download_rtt_ms"], fields["download_rtt_p95_ms"]) == (50.4, 220.9, 249.7)
    assert fields["download_rpm"] == pytest.approx(60_000 / 220.9, abs=0.1)
    assert (fields["download_tcp_rtt_mean_ms"], fields["family"]) == (201.5, "ipv4")
    assert "upload_rtt_ms" not in fields
