from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from collector_helpers import radio, result, run_cli

from collector.intake import Arrival, Intake
from collector.journal import Batch, Journal
from wire import codec

if TYPE_CHECKING:
    from lab.servers import Influxd


def config(folder: Path, **sink: Any) -> str:  # noqa: ANN401  # any key of the sink
    path = folder / "collector.yaml"
    document = {
        "broker": {"host": "127.0.0.1", "port": 1, "tls": None},
        "journal": {"path": str(folder / "journal.db")},
        "sink": sink or {"kind": "none"},
    }
    path.write_text(json.dumps(document))
    return str(path)


def fill(folder: Path) -> None:
    intake = Intake()
    for one in [*(result(seq) for seq in range(1, 8)), *(radio(seq, probe="p2") for seq in range(1, 4))]:
        payload = codec.encode(one)
        intake.take(Arrival(f"probefleet/v1/{one.probe_id}/result", payload, len(payload)))
    with Journal(folder / "journal.db") as journal:
        journal.append(Batch(received_us=1, results=intake.results))


def test_help_shows_examples() -> None:
    assert "probe-collector replay --since" in run_cli("--help").stdout


def test_version_is_the_installed_one() -> None:
    assert run_cli("version").stdout.startswith("probe-collector 0.")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file or directory; name the file with --config"),
        ("", "expected keys and values at the top, found nothing"),
        ("a: &a [*a]\nb: *a\n", "aliases"),
        ("broker: {host: b}\njournal: {path: j}\nsink: {kind: influx}\n", "sink.kind"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_line_and_status_2(
    text: str | None, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "collector.yaml"
    if text is not None:
        path.write_text(text)
    for command in ("check-config", "run", "stats", "replay"):
        done = run_cli(command, "--config", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["acl", "places --room 9", "acl --sites {sites}", "stats --journal {journal}", "version"]
)
def test_a_configuration_that_was_named_has_to_be_there_for_every_command(command: str, tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "sites.yaml").write_text("sites: [{id: s, probes: [p1]}]\n")
    words = command.format(sites=tmp_path / "sites.yaml", journal=tmp_path / "journal.db").split()
    done = run_cli(*words, "--config", str(tmp_path / "none.yaml"))
    wanted = f"{tmp_path / 'none.yaml'}: No such file or directory; name the file with --config\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", wanted)


def test_the_site_list_is_the_one_that_the_configuration_names(tmp_path: Path) -> None:
    sites = tmp_path / "fleet.yaml"
    sites.write_text("sites: [{id: s, group: g, probes: [only-here]}]\n")
    path = Path(config(tmp_path))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"serves": {"sites_file": str(sites), "groups": ["g"]}}))
    assert "user only-here\n" in run_cli("acl", "--config", str(path)).stdout
    assert "only-here" in run_cli("places", "--room", "9", "--config", str(path)).stdout


def test_credentials_that_all_may_read_are_status_2(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("user:password\n")
    credentials.chmod(0o644)
    path = config(tmp_path, kind="influxdb1", url="http://h", database="d", credentials_file=str(credentials))
    for command in ("check-config", "run"):
        done = run_cli(command, "--config", path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(f"run: chmod 600 {credentials}")


def test_a_usable_configuration_is_fine(tmp_path: Path) -> None:
    path = config(tmp_path)
    done = run_cli("check-config", "--config", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: fine\n", "")


def test_wrong_usage_is_status_2() -> None:
    for arguments in ((), ("fly",), ("replay", "--since", "yesterday")):
        assert run_cli(*arguments).returncode == 2
    assert "'2026-02-30' is no time; write 2026-07-01" in run_cli("gaps", "--since", "2026-02-30").stderr


def test_a_span_that_ends_before_it_begins_is_wrong_usage(tmp_path: Path) -> None:
    path = config(tmp_path, kind="influxdb1", url="http://127.0.0.1:1", database="d")
    done = run_cli("replay", "--config", path, "--since", "2026-07-02", "--until", "2026-07-01")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--until is not after --since" in done.stderr


def test_a_journal_becomes_points_again_as_often_as_one_likes(influxd: Influxd, tmp_path: Path) -> None:
    fill(tmp_path)
    path = config(tmp_path, kind="influxdb1", url=influxd.url, database=tmp_path.name)
    for arguments, written in (
        (("--probe", "p2"), 3),
        (("--since", "2026-07-01T12:00:03", "--until", "2026-07-01T12:00:05Z"), 3),
        ((), 10),
        ((), 10),
    ):
        done = run_cli("replay", "--config", path, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{written} results written")
        assert f"{written} of {written} results" in done.stderr
    rows = influxd.query("SELECT COUNT(seq) FROM throughput, radio", tmp_path.name)
    assert sorted(row["count"] for row in rows) == [3, 7]


def test_a_probe_that_the_journal_does_not_know_is_said_to_be_unknown(tmp_path: Path) -> None:
    fill(tmp_path)
    path = config(tmp_path, kind="influxdb1", url="http://127.0.0.1:1", database="d")
    for command in (("replay",), ("replay", "--since", "2026-07-01"), ("gaps",)):
        done = run_cli(*command, "--config", path, "--probe", "nobody")
        wanted = f"{tmp_path / 'journal.db'}: holds no result of nobody; `probe-collector stats` names its probes\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", wanted)
    nothing_then = run_cli("replay", "--config", path, "--probe", "p2", "--since", "2030-01-01")
    assert (nothing_then.returncode, nothing_then.stdout.split(" to ")[0]) == (0, "0 results written")
    assert run_cli("gaps", "--config", path, "--probe", "p2").returncode == 0


def test_replay_says_which_results_the_database_refuses(influxd: Influxd, tmp_path: Path) -> None:
    fill(tmp_path)
    influxd.query(f'CREATE DATABASE "{tmp_path.name}"')
    influxd.query(f'CREATE RETENTION POLICY short ON "{tmp_path.name}" DURATION 1h REPLICATION 1 DEFAULT')
    path = config(tmp_path, kind="influxdb1", url=influxd.url, database=tmp_path.name)
    done = run_cli("replay", "--config", path, "--probe", "p2")
    assert done.returncode == 1
    assert done.stdout.startswith("0 results written")
    assert "retention policy" in done.stderr


def test_replay_without_a_database_says_so(tmp_path: Path) -> None:
    fill(tmp_path)
    done = run_cli("replay", "--config", config(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    away = run_cli("replay", "--config", config(tmp_path, kind="influxdb1", url="http://127.0.0.1:1", database="d"))
    assert away.returncode == 1
    assert "Connection refused" in away.stderr
    assert "Traceback" not in away.stderr


def test_stats_need_a_journal(tmp_path: Path) -> None:
    done = run_cli("stats", "--config", config(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has the collector run" in done.stderr
    folder = run_cli("stats", "--journal", str(tmp_path))
    assert (folder.returncode, folder.stderr) == (1, f"{tmp_path}: a folder; name the file in it\n")
    empty = tmp_path / "empty.db"
    empty.touch()
    for command in ("stats", "gaps", "clashes"):
        done = run_cli(command, "--journal", str(empty))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "holds no journal; name the collector's" in done.stderr
    fill(tmp_path)
    done = run_cli("stats", "--journal", str(tmp_path / "journal.db"), "--json")
    assert json.loads(done.stdout)["results"] == 10


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_disk_is_one_line_and_status_1(tmp_path: Path) -> None:
    fill(tmp_path)
    path = config(tmp_path)
    subprocess.run(["mount", "--bind", "-o", "ro", tmp_path, tmp_path], check=True)
    try:
        done = run_cli("run", "--config", path)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("make it writable for this service's user")
    assert "Traceback" not in done.stderr
