"""The broker as shipped: config/mosquitto, paths replaced, under Debian's own mosquitto.conf, with a made-up CA."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from lab.pki import make_server_certificate
from lab.servers import Server
from wire import codec, topics
from wire.delivery import Ack, Resend
from wire.leases import Granted, LeaseRequest
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config/mosquitto"
MINE, OTHERS = "lc-tan-phong-1", "lc-sin-ho-1"
USERS = (MINE, OTHERS, "collector", "responder")
WITHIN_S = 10.0

pytestmark = pytest.mark.journey


class Shipped(Server):
    """mosquitto with the shipped files. What Debian's own mosquitto.conf sets is set before, as on a real server."""

    program = "mosquitto"
    debian_package = "mosquitto"

    def configure(self) -> list[str]:
        """Replace paths and the port; anything else stays as it is."""
        tls = make_server_certificate(self.data_dir / "pki", ["localhost", "127.0.0.1"])
        shutil.copy(SHIPPED / "acl", self.data_dir / "acl")
        replaced = {
            "listener 8883": f"listener {self.port} 127.0.0.1",
            "/etc/mosquitto/certs/probefleet.pem": str(tls.cert_file),
            "/etc/mosquitto/certs/probefleet.key": str(tls.key_file),
            "/etc/mosquitto/probefleet.passwd": str(self.passwords),
            "/etc/mosquitto/probefleet.acl": str(self.data_dir / "acl"),
        }
        text = (SHIPPED / "probefleet.conf").read_text()
        for ours, here in replaced.items():
            assert text.count(ours) == 1, ours
            text = text.replace(ours, here)
        (self.data_dir / "conf.d").mkdir(exist_ok=True)
        (self.data_dir / "conf.d/probefleet.conf").write_text(text)
        debian = Path("/etc/mosquitto/mosquitto.conf").read_text()
        for theirs, here in {
            "/run/mosquitto/mosquitto.pid": f"{self.data_dir}/pid",
            "/var/lib/mosquitto/": f"{self.data_dir}/",
            "log_dest file /var/log/mosquitto/mosquitto.log": "log_dest stderr",
            "/etc/mosquitto/conf.d": f"{self.data_dir}/conf.d",
        }.items():
            assert theirs in debian, f"Debian's mosquitto.conf has changed: no {theirs}"
            debian = debian.replace(theirs, here)
        (self.data_dir / "mosquitto.conf").write_text("user root\n" + debian)
        return ["-c", str(self.data_dir / "mosquitto.conf")]

    @property
    def passwords(self) -> Path:
        return self.data_dir / "passwords"


class Fleet(NamedTuple):
    broker: Shipped
    passwords: dict[str, str]

    def connect(self, user: str, *, password: str | None = None, tls: bool = True, client_id: str = "") -> Client:
        ca_file = self.broker.data_dir / "pki/ca.pem"
        return Client(self.broker.port, user, password or self.passwords[user], ca_file if tls else None, client_id)


class Client:
    """One user of the broker: MQTT 5, because it says when something is not allowed."""

    def __init__(self, port: int, user: str, password: str, ca_file: Path | None, client_id: str = "") -> None:
        self.received: list[paho.MQTTMessage] = []
        self.refused: Any = None
        self._news = threading.Condition()
        self._answers: dict[int | None, list[ReasonCode]] = {}
        self._connected = False
        self._ended = False
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.username_pw_set(user, password)
        if ca_file is not None:
            self._client.tls_set_context(ssl.create_default_context(cafile=str(ca_file)))
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda _c, _d, mid, reasons, _p: self._answer(mid, reasons)
        self._client.on_publish = lambda _c, _d, mid, reason, _p: self._answer(mid, [reason])
        self._client.connect("localhost" if ca_file is not None else "127.0.0.1", port)
        self._client.loop_start()
        with self._news:
            assert self._news.wait_for(lambda: self._connected or self._ended, WITHIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def accepted(self) -> bool:
        return self._connected

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> ReasonCode:
        """Publish with QoS 1; return the broker's answer."""
        return self._wait_for_answer(self._client.publish(topic, payload, qos=1, retain=retain).mid)

    def subscribe(self, topic: str) -> None:
        _, mid = self._client.subscribe(topic, qos=1)
        self._wait_for_answer(mid)

    def wait_for(self, topic: str) -> paho.MQTTMessage:
        with self._news:
            assert self._news.wait_for(lambda: any(message.topic == topic for message in self.received), WITHIN_S)
        return next(message for message in self.received if message.topic == topic)

    def _wait_for_answer(self, mid: int | None) -> ReasonCode:
        with self._news:
            assert self._news.wait_for(lambda: mid in self._answers, WITHIN_S)
        return self._answers[mid][0]

    def _answer(self, mid: int, reasons: list[ReasonCode]) -> None:
        with self._news:
            self._answers[mid] = reasons
            self._news.notify_all()

    def _on_connect(self, _client: object, _data: object, _flags: object, reason: ReasonCode, _props: object) -> None:
        with self._news:
            self._connected, self._ended = not reason.is_failure, reason.is_failure
            self.refused = str(reason)
            self._news.notify_all()

    def _on_disconnect(self, _client: object, _data: object, _flags: object, _reason: object, _props: object) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        with self._news:
            self.received.append(message)
            self._news.notify_all()


NOT_AUTHORIZED = ReasonCode(PacketTypes.PUBACK, "Not authorized")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    broker = Shipped(tmp_path_factory.mktemp("mosquitto"))
    passwords = {}
    for user in USERS:
        command = [ROOT / "scripts/broker-user", "--passwords", broker.passwords, user]
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        name, _, passwords[user] = line.partition(":")
        assert name == user
    with broker:
        yield Fleet(broker, passwords)


def topic(leaf: str, probe: str = MINE) -> str:
    return topics.topic(probe, leaf)


def test_a_result_reaches_the_collector_over_tls_and_its_ack_the_probe(fleet: Fleet) -> None:
    with fleet.connect("collector") as collector, fleet.connect(MINE) as probe:
        collector.subscribe(topics.every_probe(topics.RESULT))
        collector.subscribe(topics.every_probe(topics.STATUS))
        probe.subscribe(topic(topics.ACK))
        status = codec.encode(Status(probe_id=MINE, online=True))
        assert not probe.publish(topic(topics.STATUS), status, retain=True).is_failure
        assert not probe.publish(topic(topics.RESULT), b"[]").is_failure
        assert collector.wait_for(topic(topics.RESULT)).payload == b"[]"
        assert collector.wait_for(topic(topics.STATUS)).payload == status
        assert not collector.publish(topic(topics.ACK), codec.encode(Ack(spool_id="s", stored=((1, 1),)))).is_failure
        probe.wait_for(topic(topics.ACK))


def test_a_lease_travels_between_probe_and_responder(fleet: Fleet) -> None:
    request = LeaseRequest(request_id="r", probe_id=MINE, link="viettel", length_s=30)
    grant = Granted(request_id="r", responder="r1", host="127.0.0.1", ports=(5201,), token="t", expires_in_s=30)
    with fleet.connect("responder") as responder, fleet.connect(MINE) as probe:
        responder.subscribe(topics.every_probe(topics.LEASE_REQUEST))
        probe.subscribe(topic(topics.LEASE_GRANT))
        assert not probe.publish(topic(topics.LEASE_REQUEST), codec.encode(request)).is_failure
        responder.wait_for(topic(topics.LEASE_REQUEST))
        assert not responder.publish(topic(topics.LEASE_GRANT), codec.encode(grant)).is_failure
        probe.wait_for(topic(topics.LEASE_GRANT))


def test_the_responders_of_a_group_hear_each_other_and_themselves(fleet: Fleet) -> None:
    name = topics.topic("lao-cai", topics.LENDING)
    with fleet.connect("responder") as responder:
        responder.subscribe(name)
        assert not responder.publish(name, b"{}").is_failure
        responder.wait_for(name)


def test_a_command_reaches_the_probe_and_its_reply_the_collector(fleet: Fleet) -> None:
    command = codec.encode(Resend(spool_id="s", ranges=((1, 1),)))
    with fleet.connect("collector") as collector, fleet.connect(MINE) as probe:
        collector.subscribe(topics.every_probe(topics.REPLY))
        probe.subscribe(topic(topics.COMMAND))
        assert not collector.publish(topic(topics.COMMAND), command).is_failure
        assert probe.wait_for(topic(topics.COMMAND)).payload == command
        assert not probe.publish(topic(topics.REPLY), b"{}").is_failure
        collector.wait_for(topic(topics.REPLY))


@pytest.mark.parametrize(
    ("user", "forbidden"),
    [
        pytest.param(MINE, topic(topics.RESULT, OTHERS), id="a probe writes another's results"),
        pytest.param(MINE, topic(topics.STATUS, OTHERS), id="a probe speaks for another"),
        pytest.param(MINE, topic(topics.LEASE_REQUEST, OTHERS), id="a probe borrows for another"),
        pytest.param(MINE, topic(topics.ACK), id="a probe forges its own ack"),
        pytest.param(MINE, topic(topics.ACK, OTHERS), id="a probe forges another's ack"),
        pytest.param(MINE, topic(topics.COMMAND), id="a probe commands itself"),
        pytest.param(MINE, topic(topics.COMMAND, OTHERS), id="a probe commands another"),
        pytest.param(MINE, topic(topics.REPLY, OTHERS), id="a probe replies for another"),
        pytest.param("responder", topic(topics.COMMAND), id="the responder commands a probe"),
        pytest.param("collector", topic(topics.REPLY), id="the collector replies for a probe"),
        pytest.param(MINE, topic(topics.LEASE_GRANT), id="a probe grants itself a lease"),
        pytest.param(MINE, "probefleet/v1/result", id="a probe writes beside the branches"),
        pytest.param(MINE, "elsewhere", id="a probe writes anywhere"),
        pytest.param("collector", topic(topics.RESULT), id="the collector makes up results"),
        pytest.param("collector", topic(topics.LEASE_GRANT), id="the collector grants leases"),
        pytest.param("responder", topic(topics.ACK), id="the responder acknowledges results"),
        pytest.param("responder", topic(topics.RESULT), id="the responder makes up results"),
    ],
)
def test_what_is_not_ones_own_to_write_is_refused(fleet: Fleet, user: str, forbidden: str) -> None:
    with fleet.connect(user) as client:
        assert client.publish(forbidden, b"{}").value == NOT_AUTHORIZED.value


@pytest.mark.parametrize("wildcard", ["#", "probefleet/v1/#", "probefleet/v1/+/result", f"probefleet/v1/{OTHERS}/ack"])
def test_a_probe_hears_nothing_of_another_whatever_it_subscribes_to(fleet: Fleet, wildcard: str) -> None:
    # mosquitto lets anybody subscribe and holds back what may not be read: so real traffic has to pass by.
    with (
        fleet.connect(MINE) as spy,
        fleet.connect(OTHERS) as other,
        fleet.connect("collector") as collector,
        fleet.connect("responder") as responder,
    ):
        spy.subscribe(wildcard)
        spy.subscribe(topic(topics.ACK))
        other.publish(topic(topics.STATUS, OTHERS), b"{}")
        other.publish(topic(topics.RESULT, OTHERS), b"[]")
        other.publish(topic(topics.LEASE_REQUEST, OTHERS), b"{}")
        responder.publish(topic(topics.LEASE_GRANT, OTHERS), b"{}")
        collector.publish(topic(topics.ACK, OTHERS), b"{}")
        collector.publish(topic(topics.COMMAND, OTHERS), b"{}")
        other.publish(topic(topics.REPLY, OTHERS), b"{}")
        collector.publish(topic(topics.ACK), b"the last one")
        spy.wait_for(topic(topics.ACK))
        assert {message.topic for message in spy.received} == {topic(topics.ACK)}


def test_a_probe_that_names_itself_as_the_collector_does_cannot_throw_it_out(fleet: Fleet) -> None:
    with fleet.connect("collector", client_id="probefleet-collector") as collector:
        collector.subscribe(topics.every_probe(topics.RESULT))
        with fleet.connect(MINE, client_id="probefleet-collector") as probe:
            probe.publish(topic(topics.RESULT), b"[]")
            collector.wait_for(topic(topics.RESULT))


def test_a_wrong_password_is_refused(fleet: Fleet) -> None:
    with fleet.connect(MINE, password="guessed") as client:
        assert not client.accepted
        assert client.refused == "Not authorized"


def test_an_unknown_user_is_refused(fleet: Fleet) -> None:
    with fleet.connect("nobody", password="x") as client:
        assert not client.accepted


def test_plain_text_is_refused(fleet: Fleet) -> None:
    with fleet.connect(MINE, tls=False) as client:
        assert not client.accepted


def test_an_old_tls_is_refused_and_tls_1_2_is_spoken(fleet: Fleet) -> None:
    for newest, spoken in ((ssl.TLSVersion.TLSv1_1, None), (ssl.TLSVersion.TLSv1_2, "TLSv1.2")):
        context = ssl.create_default_context(cafile=str(fleet.broker.data_dir / "pki/ca.pem"))
        context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL would not even offer what is old
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
        with socket.create_connection(("127.0.0.1", fleet.broker.port)) as plain:
            if spoken is None:
                with pytest.raises((ssl.SSLError, ConnectionResetError), match=r"(?i)alert protocol version|reset"):
                    context.wrap_socket(plain, server_hostname="localhost")
            else:
                with context.wrap_socket(plain, server_hostname="localhost") as secure:
                    assert secure.version() == spoken


def test_a_server_that_another_authority_signed_is_not_spoken_to(fleet: Fleet, tmp_path: Path) -> None:
    stranger = make_server_certificate(tmp_path, ["localhost"]).ca_file
    context = ssl.create_default_context(cafile=str(stranger))
    with (
        socket.create_connection(("127.0.0.1", fleet.broker.port)) as plain,
        pytest.raises(ssl.SSLError, match="verify"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_more_waits_for_an_absent_collector_than_stock_mosquitto_keeps(fleet: Fleet) -> None:
    count = 2500  # stock: 1000 are kept, the rest is acknowledged and dropped
    context = ssl.create_default_context(cafile=str(fleet.broker.data_dir / "pki/ca.pem"))

    def session() -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="absent", clean_session=False)
        client.username_pw_set("collector", fleet.passwords["collector"])
        client.tls_set_context(context)
        return client

    seen: set[bytes] = set()
    all_there = threading.Event()
    subscribed = threading.Event()

    def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        seen.add(bytes(message.payload))
        if len(seen) == count:
            all_there.set()

    for round_, done in enumerate((subscribed, all_there)):
        collector = session()
        collector.on_message = on_message
        collector.on_subscribe = lambda *_: subscribed.set()
        collector.on_connect = lambda client, *_: client.subscribe(topics.every_probe(topics.RESULT), qos=1)
        collector.connect("localhost", fleet.broker.port)
        collector.loop_start()
        assert done.wait(30), f"{len(seen)} of {count} came"
        collector.disconnect()
        collector.loop_stop()
        if round_ == 0:
            with fleet.connect(MINE) as probe:
                sent = [probe._client.publish(topic(topics.RESULT), f"[{n}]".encode(), qos=1) for n in range(count)]
                for info in sent:
                    info.wait_for_publish(30)
    assert len(seen) == count


def test_who_leaves_the_site_list_is_cut_off_from_a_connection_it_holds(tmp_path: Path) -> None:
    sites = tmp_path / "sites.yaml"
    text = f"sites: [{{id: a, probes: [{MINE}]}}, {{id: b, probes: [{OTHERS}]}}]\n"
    sites.write_text(text)
    broker = Shipped(tmp_path / "mosquitto")
    broker.data_dir.mkdir()

    def allow_the_list() -> None:
        command = [sys.executable, "-m", "collector.cli", "acl", "--sites", str(sites)]
        made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        (broker.data_dir / "acl").write_text(made)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGHUP)

    def broker_user(*arguments: str) -> str:
        command = [ROOT / "scripts/broker-user", "--passwords", broker.passwords, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    passwords = dict(broker_user(user).split(":", 1) for user in (MINE, OTHERS))
    with broker:
        allow_the_list()
        fleet = Fleet(broker, passwords)
        with fleet.connect(MINE) as stolen, fleet.connect(OTHERS) as other:
            assert not stolen.publish(topic(topics.RESULT), b"[]").is_failure
            sites.write_text(text.replace(MINE, "lc-new-1"))
            allow_the_list()
            wait_until(lambda: stolen.publish(topic(topics.RESULT), b"[]").value == NOT_AUTHORIZED.value)
            assert not other.publish(topic(topics.RESULT, OTHERS), b"[]").is_failure
            broker_user("--remove", MINE)
            os.kill(broker.pid or 0, signal.SIGHUP)
            wait_until(lambda: stolen._ended)
            assert not other.publish(topic(topics.RESULT, OTHERS), b"[]").is_failure
        with fleet.connect(MINE) as again:
            assert not again.accepted


def wait_until(met: Callable[[], bool]) -> None:
    """Poll until the condition holds."""
    deadline_s = time.monotonic() + WITHIN_S
    while not met():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_the_largest_message_is_the_one_that_the_collector_accepts() -> None:
    limit = re.search(r"^message_size_limit (\d+)$", (SHIPPED / "probefleet.conf").read_text(), re.MULTILINE)
    assert limit is not None
    assert int(limit[1]) == codec.MAX_PAYLOAD_BYTES


def test_a_user_that_is_removed_is_shut_out_and_a_new_password_replaces_the_old(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"

    def broker_user(*arguments: str) -> str:
        command = [ROOT / "scripts/broker-user", "--passwords", passwords, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    first, again = broker_user("a.b"), broker_user("a.b")
    assert first != again
    broker_user("axb")  # a name that `a.b` would match were its dot a wildcard
    broker_user("a.b")
    assert [line.partition(":")[0] for line in passwords.read_text().splitlines()] == ["axb", "a.b"]
    broker_user("--remove", "a.b")
    assert [line.partition(":")[0] for line in passwords.read_text().splitlines()] == ["axb"]
    assert passwords.stat().st_mode & 0o007 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["passwords"]


@pytest.mark.parametrize("name", ["", "#", "+", "a/b", "UPPER", "-x", "a b", "x" * 64])
def test_a_name_that_could_reach_into_other_topics_is_no_user(tmp_path: Path, name: str) -> None:
    command = [ROOT / "scripts/broker-user", "--passwords", tmp_path / "passwords", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert not (tmp_path / "passwords").exists()
