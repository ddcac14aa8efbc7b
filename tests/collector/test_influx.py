from __future__ import annotations

import gzip
import socket
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from collector_helpers import failed, radio, result, wait_until

from base.broker import CredentialsError
from collector import points
from collector.influx import Busy, InfluxDB1, InfluxDB2, Misconfigured, NoSink, Rejected, Sink, open_sink
from collector.settings import SinkSettings
from lab.servers import Influxd, VictoriaMetrics, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Door(NamedTuple):
    """A sink and how to count what is behind it; None where nothing is."""

    sink: Sink
    count: Callable[[], int] | None


def token_file(folder: Path, token: str = "t0ken") -> Path:
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(token + "\n")
    return path


def influxdb1(url: str, database: str = "probefleet", credentials_file: Path | None = None) -> SinkSettings:
    return SinkSettings(kind="influxdb1", url=url, database=database, credentials_file=credentials_file)


def influxdb2(url: str, folder: Path) -> SinkSettings:
    return SinkSettings(kind="influxdb2", url=url, org="o", bucket="b", token_file=token_file(folder))


@pytest.fixture(params=["influxdb1", "influxdb2", "none"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    if request.param == "influxdb1":
        influxd: Influxd = request.getfixturevalue("influxd")
        database = tmp_path.name
        found = Door(
            open_sink(influxdb1(influxd.url, database)),
            lambda: sum(row["count_seq"] for row in influxd.query("SELECT COUNT(*) FROM /.*/", database)),
        )
    elif request.param == "influxdb2":
        victoria: VictoriaMetrics = request.getfixturevalue("victoria")
        label = f'{{site="{tmp_path.name.replace("_", "-")}",__name__=~".*_seq"}}'
        found = Door(
            open_sink(influxdb2(victoria.url, tmp_path)),
            lambda: sum(len(series["values"]) for series in victoria.export(label)),
        )
    else:
        found = Door(open_sink(SinkSettings(kind="none")), None)
    yield found
    found.sink.close()


def lines(tmp_path: Path, count: int = 20) -> list[str]:
    site = tmp_path.name.replace("_", "-")
    makers = (result, radio, failed)
    return [points.line(makers[seq % 3](seq, site=site)) for seq in range(1, count + 1)]


def test_every_line_becomes_one_point(door: Door, tmp_path: Path) -> None:
    door.sink.write(lines(tmp_path))
    if door.count is not None:
        assert wait_until(lambda: door.count() == 20)  # type: ignore[misc]  # not None


def test_writing_again_changes_nothing(door: Door, tmp_path: Path) -> None:
    for _ in range(3):
        door.sink.write(lines(tmp_path))
    if door.count is not None:
        wait_until(lambda: door.count() == 20)  # type: ignore[misc]  # not None


def test_a_name_says_which_database_it_is_and_no_secret(tmp_path: Path) -> None:
    assert open_sink(influxdb1("http://h:1/", "d")).name == "influxdb1 http://h:1 d"
    assert open_sink(influxdb2("http://h:1", tmp_path)).name == "influxdb2 http://h:1 o/b"
    assert open_sink(SinkSettings(kind="none")).name == "none"


def test_influxdb_1_rejects_a_field_of_another_type_and_says_which(influxd: Influxd) -> None:
    sink = InfluxDB1(influxdb1(influxd.url, "types"))
    sink.write(["throughput,probe=p1 seq=1i 1"])
    with pytest.raises(Rejected, match="seq"):
        sink.write(['throughput,probe=p1 seq="one" 2', "throughput,probe=p1 seq=3i 3"])
    with pytest.raises(Rejected, match="unable to parse"):
        sink.write(["this is no line"])
    with pytest.raises(Rejected, match=r"range|timestamp|time"):
        sink.write(["throughput,probe=p1 seq=1i 99999999999999999999"])
    sink.close()


def test_influxdb_1_with_users_refuses_strangers_and_readers(tmp_path: Path) -> None:
    with Influxd(tmp_path / "influxd", auth=True) as influxd:
        influxd.query("CREATE USER root WITH PASSWORD 'r00t' WITH ALL PRIVILEGES")
        as_root = {"user": "root", "password": "r00t"}
        influxd.query("CREATE USER w WITH PASSWORD 'w'", **as_root)
        influxd.query("CREATE DATABASE probefleet", **as_root)
        credentials = tmp_path / "credentials"
        credentials.touch(mode=0o600)
        for text in ("", "w:wrong\n", "w:w\n"):
            credentials.write_text(text)
            file = credentials if text else None
            sink = InfluxDB1(influxdb1(influxd.url, credentials_file=file))
            with pytest.raises(Misconfigured, match=r"40[13]"):
                sink.write(["m f=1 1"])
            sink.close()
        influxd.query("GRANT WRITE ON probefleet TO w", **as_root)
        sink = InfluxDB1(influxdb1(influxd.url, credentials_file=credentials))
        sink.write(["m f=1 1"])
        sink.close()
        other = InfluxDB1(influxdb1(influxd.url, "another", credentials_file=credentials))
        with pytest.raises(Misconfigured):
            other.write(["m f=1 1"])
        other.close()


class Canned(NamedTuple):
    """An HTTP server that answers every POST the same way and notes what it was sent."""

    url: str
    answer: dict[str, Any]
    requests: list[tuple[str, dict[str, str], bytes]]


@pytest.fixture
def canned() -> Iterator[Canned]:
    answer: dict[str, Any] = {"status": 204, "body": b"", "headers": {}}
    requests: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, dict(self.headers), body))
            self.send_response(answer["status"])
            for key, value in answer["headers"].items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield Canned(f"http://127.0.0.1:{server.server_port}", answer, requests)
    server.shutdown()
    thread.join()
    server.server_close()


Answer = tuple[int, bytes, dict[str, str], type[Exception]]

# Bodies as the InfluxDB API references show them: v2 "Write data" responses, and 1.x "/write" errors.
ANSWERS: list[Answer] = [
    (400, b'{"code":"invalid","message":"unable to parse \'m f\': missing field value"}', {}, Rejected),
    (400, b'{"error":"partial write: field type conflict: input field \\"f\\" dropped=1"}', {}, Rejected),
    (422, b'{"code":"unprocessable entity","message":"points beyond retention policy dropped=1"}', {}, Rejected),
    (413, b'{"code":"request too large","message":"cannot read data: points batch is too large"}', {}, Rejected),
    (413, b"<html>Request Entity Too Large</html>", {}, Rejected),
    (201, b'{"code":"invalid","message":"partial write: 2 lines rejected","line":3}', {}, Rejected),
    (200, b"<html>Log in to this network</html>", {}, Misconfigured),
    (202, b"", {}, Misconfigured),
    (400, b"<html>The plain HTTP request was sent to HTTPS port</html>", {}, Misconfigured),
    (401, b'{"code":"unauthorized","message":"unauthorized access"}', {}, Misconfigured),
    (403, b"", {}, Misconfigured),
    (404, b'{"code":"not found","message":"bucket \\"b\\" not found"}', {}, Misconfigured),
    (404, b"<html>nothing here</html>", {}, Misconfigured),
    (429, b'{"code":"too many requests","message":"slow down"}', {"Retry-After": "7"}, Busy),
    (503, b'{"code":"unavailable","message":"overloaded"}', {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, Busy),
    (500, b'{"code":"internal error","message":"timeout"}', {}, Busy),
    (502, b"<html>Bad Gateway</html>", {}, Busy),
]


@pytest.mark.parametrize("kind", ["influxdb1", "influxdb2"])
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer[0]}-{answer[3].__name__}")
def test_answers_are_sorted_by_what_to_do_next(kind: str, answer: Answer, canned: Canned, tmp_path: Path) -> None:
    status, body, headers, kind_of_error = answer
    canned.answer.update(status=status, body=body, headers=headers)
    sink = open_sink(influxdb1(canned.url) if kind == "influxdb1" else influxdb2(canned.url, tmp_path))
    with pytest.raises(kind_of_error) as caught:
        sink.write(["m f=1 1"])
    assert type(caught.value) is kind_of_error
    assert "\n" not in str(caught.value)
    assert "t0ken" not in str(caught.value)
    if isinstance(caught.value, Busy):
        assert caught.value.retry_after_s == (7.0 if headers.get("Retry-After") == "7" else None)
    sink.close()


def test_both_doors_send_gzipped_lines_with_nanoseconds_to_the_right_place(canned: Canned, tmp_path: Path) -> None:
    elsewhere = canned.url.replace("127.0.0.1", "127.1")  # another spelling, which is not known to be this machine
    for settings in (influxdb1(elsewhere, "a b"), influxdb2(canned.url, tmp_path)):
        sink = open_sink(settings)
        sink.write(["m f=1 1", "m f=2 2"])
        sink.close()
    (path1, headers1, body1), (path2, headers2, body2) = canned.requests
    assert gzip.decompress(body1) == gzip.decompress(body2) == b"m f=1 1\nm f=2 2"
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(path1).query) == {"db": ["a b"], "precision": ["ns"]}
    assert urllib.parse.urlsplit(path1).path == "/write"
    query2 = urllib.parse.parse_qs(urllib.parse.urlsplit(path2).query)
    assert query2 == {"org": ["o"], "bucket": ["b"], "precision": ["ns"]}
    assert urllib.parse.urlsplit(path2).path == "/api/v2/write"
    assert headers2["Authorization"] == "Token t0ken"
    assert headers1["Content-Encoding"] == headers2["Content-Encoding"] == "gzip"


def test_to_a_database_on_the_same_machine_nothing_is_compressed(canned: Canned) -> None:
    sink = open_sink(influxdb1(canned.url))
    sink.write(["m f=1 1", "m f=2 2"])
    sink.close()
    ((_, headers, body),) = canned.requests
    assert body == b"m f=1 1\nm f=2 2"
    assert "Content-Encoding" not in headers


@pytest.mark.parametrize("kind", ["influxdb1", "influxdb2"])
def test_a_database_that_is_away_is_busy_and_says_the_same_each_time(kind: str, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    sink = open_sink(influxdb1(url) if kind == "influxdb1" else influxdb2(url, tmp_path))
    said = set()
    for _ in range(2):
        with pytest.raises(Busy, match="refused") as caught:
            sink.write(["m f=1 1"])
        said.add(str(caught.value))
    assert len(said) == 1, "so that it is logged once"
    sink.close()


@pytest.mark.parametrize("kind", ["influxdb1", "influxdb2"])
@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 ", b"HTTP/1.1 20", None])
def test_an_answer_that_is_cut_off_or_never_comes_is_no_answer(kind: str, says: bytes | None, tmp_path: Path) -> None:
    """Whether the database has stored the batch cannot be known then: it is written again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = influxdb1(url) if kind == "influxdb1" else influxdb2(url, tmp_path)
        sink = open_sink(msgspec.structs.replace(settings, timeout_s=0.5))
        done = threading.Event()

        def take_and_cut() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                if says is None:
                    done.wait(30)
                else:
                    connection.sendall(says)

        thread = threading.Thread(target=take_and_cut)
        thread.start()
        try:
            with pytest.raises(Busy):
                sink.write(["m f=1 1"])
        finally:
            done.set()
            thread.join()
            sink.close()


def test_a_token_file_that_all_may_read_is_refused(tmp_path: Path) -> None:
    settings = influxdb2("http://h", tmp_path)
    assert settings.token_file is not None
    settings.token_file.chmod(0o644)
    with pytest.raises(CredentialsError, match="chmod 600"):
        InfluxDB2(settings)
    settings.token_file.chmod(0o600)
    settings.token_file.write_text("two words\n")
    with pytest.raises(CredentialsError, match="one line"):
        InfluxDB2(settings)
    settings.token_file.unlink()
    with pytest.raises(CredentialsError, match="write the API token"):
        InfluxDB2(settings)


def test_no_sink_takes_everything() -> None:
    sink = NoSink()
    sink.write(["anything"])
    sink.close()
