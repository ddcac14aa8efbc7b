from __future__ import annotations

import os
import subprocess
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

from base.broker import BrokerSettings, TlsSettings, make_client
from lab.servers import (
    Influxd,
    Mosquitto,
    Server,
    ServerError,
    TlsFiles,
    VictoriaMetrics,
    answers,
    broker_acl,
    free_port,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize("kind", [Mosquitto, Influxd, VictoriaMetrics])
def test_a_server_answers_when_entered_and_is_gone_when_left(kind: type[Server], tmp_path: Path) -> None:
    server = kind(tmp_path / "data")
    assert server.pid is None
    with server:
        first = server.pid
        assert first is not None
        assert answers(server.host, server.port, server.ready_path)
        server.start()
        assert server.pid == first
        server.restart()
        assert server.pid not in {None, first}
        server.kill()
        assert server.pid is None
        server.start()
    assert server.pid is None
    assert not answers(server.host, server.port)


def test_a_database_keeps_its_data_over_a_kill(tmp_path: Path) -> None:
    with Influxd(tmp_path / "data") as influxd:
        influxd.query("CREATE DATABASE one")
        influxd.kill()
        influxd.start()
        assert influxd.query("SHOW DATABASES") == [{"name": "one"}]
        with pytest.raises(ServerError, match="database not found"):
            influxd.query("SELECT * FROM m", "two")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="Unknown configuration variable"):
        Mosquitto(tmp_path / "data", extra=["nonsense true"]).start()


def test_a_program_that_is_missing_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Influxd, "program", "no-such-program")
    with pytest.raises(ServerError, match="apt-get install influxdb"):
        Influxd(tmp_path / "data").start()


def test_each_user_has_the_rights_of_its_role() -> None:
    acl = broker_acl(["p1", "collector", "responder"])
    assert "user p1\ntopic readwrite probefleet/v1/p1/#\n" in acl
    assert "user collector\ntopic read probefleet/v1/+/result\n" in acl
    assert "topic write probefleet/v1/+/lease/grant\n" in acl


def heard(broker: Mosquitto, settings: BrokerSettings, topic: str) -> bool:
    """Whether a client that publishes to a topic hears itself there."""
    arrived, ready = threading.Event(), threading.Event()
    client = make_client(settings, client_id="listener", clean_session=True)
    client.on_connect = lambda *_: client.subscribe([(topic, 1), ("probefleet/v1/p1/own", 1)])
    client.on_subscribe = lambda *_: ready.set()
    got: list[str] = []

    def on_message(_: object, __: object, message: object) -> None:
        name = message.topic  # type: ignore[attr-defined]  # paho's message
        got.append(name)
        if name.endswith("/own"):
            arrived.set()

    client.on_message = on_message
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        assert ready.wait(10)
        client.publish(topic, b"x", 1)
        client.publish("probefleet/v1/p1/own", b"x", 1)
        assert arrived.wait(10)
    finally:
        client.disconnect()
        client.loop_stop()
    return topic in got


def test_a_probe_hears_and_speaks_in_its_own_branch_only(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text("p1:secret\n")
    with Mosquitto(tmp_path / "data", users={"p1": "secret", "p2": "other"}) as broker:
        settings = BrokerSettings(host=broker.host, port=broker.port, credentials_file=credentials, tls=None)
        assert heard(broker, settings, "probefleet/v1/p1/result")
        assert not heard(broker, settings, "probefleet/v1/p2/result")
        broker.acl = "user p1\ntopic readwrite #\n"
        broker.reload()
        while not heard(broker, settings, "probefleet/v1/p2/result"):
            assert broker.pid is not None


def test_a_broker_with_a_certificate_is_reached_by_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=lab"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    with Mosquitto(tmp_path / "data", tls=TlsFiles(certificate, certificate, key)) as broker:
        settings = BrokerSettings(host=broker.host, port=broker.port, tls=TlsSettings(ca_file=certificate))
        assert heard(broker, settings, "any/topic")


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"pf-test-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("kind", [Mosquitto, Influxd])
def test_a_server_runs_in_a_namespace_of_its_own(kind: type[Server], namespace: str, tmp_path: Path) -> None:
    with kind(tmp_path / "data", port=free_port(), prefix=("ip", "netns", "exec", namespace)) as server:
        assert not answers(server.host, server.port), "it is not on our loopback"
        found = subprocess.run(["ip", "netns", "identify", str(server.pid)], check=True, capture_output=True, text=True)
        assert found.stdout.strip() == namespace
