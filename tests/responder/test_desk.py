"""The whole responder: the real command, real mosquitto, real iperf3 servers and clients."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from paho.mqtt.client import MQTTMessage
from responder_helpers import PATIENCE_S, Probe, Responder, echo_answers, iperf3, is_running, listens, wait_until

from base.broker import BrokerSettings
from responder import desk
from responder.lender import Lender
from responder.settings import Ports, Settings
from wire import codec, topics
from wire.leases import Busy, Denied, Granted, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.servers import Mosquitto


def test_a_lease_is_granted_used_and_free_again_at_once(
    responder: Callable[..., Responder], probe: Callable[..., Probe], pool: tuple[int, int]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)

    granted = asking.ask("1", transfers=2)

    assert isinstance(granted, Granted)
    assert (granted.request_id, granted.responder, granted.host) == ("1", "here", "127.0.0.1")
    assert len(set(granted.ports)) == 2
    assert all(pool[0] <= port <= pool[1] for port in granted.ports)
    assert 0 < granted.expires_in_s <= 30
    assert all(listens(port) for port in granted.ports), "granted before it listens"
    assert granted.irtt_port is not None
    assert echo_answers(granted.irtt_port)

    for port, reverse in zip(granted.ports, (["-R"], []), strict=True):
        report = json.loads(iperf3(port, *reverse, granted=granted).stdout)
        assert report["end"]["sum_received"]["bytes"] > 1_000_000
    wait_until(lambda: "iperf3" not in serving.children().values())
    wait_until(lambda: "are free: done" in serving.log.read_text())

    whole_pool = asking.ask("2", transfers=4)
    assert isinstance(whole_pool, Granted), "the ports of a lease that is done are not free"


def test_a_repeated_request_gets_the_same_lease_and_a_new_one_replaces_it(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)

    first = asking.ask("1")
    again = asking.ask("1")
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert (again.ports, again.token) == (first.ports, first.token)
    assert again.expires_in_s <= first.expires_in_s
    before = {pid for pid, name in serving.children().items() if name == "iperf3"}
    assert len(before) == 2

    other = asking.ask("2")
    assert isinstance(other, Granted)
    assert other.token != first.token
    assert not [pid for pid in before if is_running(pid)], "the old lease's servers still run"
    assert all(listens(port) for port in other.ports)


def test_when_every_port_is_lent_the_next_probe_is_told_how_long_to_wait(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, one, two = responder(), probe(), probe("probe-2", "two")
    serving.wait_until_heard(one)
    assert isinstance(one.ask("1", transfers=4, length_s=40.0), Granted)

    busy = two.ask("1", transfers=1)

    assert isinstance(busy, Busy)
    assert 20 < busy.retry_in_s <= 40
    assert list(serving.children().values()).count("iperf3") == 4, "being busy must not disturb those who test"

    where = two.ask("2", transfers=0)
    assert isinstance(where, Granted), "asking for the echo server is never busy"
    assert where.ports == ()
    assert where.irtt_port is not None
    assert echo_answers(where.irtt_port)


def test_a_client_that_connects_and_goes_silent_loses_its_server_at_expiry(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    granted = asking.ask("1", transfers=1, length_s=3.0)
    assert isinstance(granted, Granted)
    servers = [pid for pid, name in serving.children().items() if name == "iperf3"]

    with socket.create_connection(("127.0.0.1", granted.ports[0]), timeout=PATIENCE_S) as silent:
        silent.sendall(b"x" * 37)  # iperf3's cookie, and then nothing
        wait_until(lambda: not any(map(is_running, servers)))

    wait_until(lambda: "expired, 1 unfinished server killed" in serving.log.read_text())
    assert isinstance(asking.ask("2", transfers=4), Granted)


def test_a_responder_killed_with_9_leaves_no_server_behind(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    granted = asking.ask("1")
    assert isinstance(granted, Granted)
    children = serving.children()
    assert sorted(children.values()) == ["iperf3", "iperf3", "irtt"]

    serving.end(signal.SIGKILL)

    wait_until(lambda: not any(map(is_running, children)))
    successor = responder()
    successor.wait_until_heard(asking)
    assert isinstance(asking.ask("2", transfers=4), Granted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_it_cleanly(
    responder: Callable[..., Responder], probe: Callable[..., Probe], number: signal.Signals
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    assert isinstance(asking.ask("1"), Granted)
    children = serving.children()

    assert serving.end(number) == 0
    assert not any(map(is_running, children))
    assert "Traceback" not in serving.log.read_text()


def test_a_second_one_with_the_same_configuration_is_turned_away_and_the_first_serves_on(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    second = responder()
    assert second.process.wait(PATIENCE_S) == 1
    assert "another responder runs with this status_file" in second.log.read_text()
    assert isinstance(asking.ask("1"), Granted)
    serving.end(signal.SIGKILL)
    third = responder()
    third.wait_until_heard(asking)


def test_a_status_file_that_cannot_be_is_said_and_costs_nothing_else(
    responder: Callable[..., Responder], probe: Callable[..., Probe], tmp_path: Path
) -> None:
    (tmp_path / "responder-status.json").mkdir()
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    assert isinstance(asking.ask("1"), Granted)
    assert serving.end(signal.SIGTERM) == 0
    assert "`probe-responder status` will not work" in serving.log.read_text()
    assert "Traceback" not in serving.log.read_text()


def test_garbage_is_ignored_and_counted_and_the_next_request_is_answered(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    dice = random.Random(1)
    fine = {"request_id": "1", "probe_id": "probe-1", "link": "viettel", "length_s": 30}
    bad: list[bytes] = [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        dice.randbytes(1_000_000),
        *(json.dumps(fine | change).encode() for change in _MISTAKES),
    ]
    for payload in bad:
        asking.say(payload)

    assert isinstance(asking.ask("fine"), Granted)
    assert asking.heard.empty(), "garbage was answered"
    assert serving.process.poll() is None
    assert "Traceback" not in serving.log.read_text()
    assert "ignored a message" in serving.log.read_text()


_MISTAKES = [
    {"probe_id": "probe-2"},
    {"probe_id": "../.."},
    {"transfers": -1},
    {"transfers": 5},
    {"transfers": "2"},
    {"length_s": 0},
    {"length_s": -1},
    {"length_s": 1e9},
    {"length_s": None},
    {"link": ""},
    {"link": "a b"},
    {"request_id": 7},
    {"request_id": "x" * 5000},
]


def test_a_request_left_by_an_earlier_session_is_not_served(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    asking = probe()
    request = LeaseRequest(request_id="retained", probe_id="probe-1", link="viettel", length_s=30)
    asking.say(codec.encode(request), retain=True)
    serving = responder()
    serving.wait_until_heard(asking)

    assert "iperf3" not in serving.children().values()
    assert isinstance(asking.ask("1"), Granted)


@pytest.mark.parametrize(("length_s", "transfers", "complaint"), [(61.0, 1, "limit of 60 s"), (30.0, 3, "limit of 2")])
def test_a_request_over_a_limit_is_denied_with_the_limit(
    responder: Callable[..., Responder], probe: Callable[..., Probe], length_s: float, transfers: int, complaint: str
) -> None:
    serving, asking = responder(max_transfers=2), probe()
    serving.wait_until_heard(asking)

    denied = asking.ask("1", length_s=length_s, transfers=transfers)

    assert isinstance(denied, Denied)
    assert complaint in denied.reason


def test_it_serves_again_after_the_broker_was_restarted(
    broker: Mosquitto, responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, before = responder(), probe()
    serving.wait_until_heard(before)
    before.close()

    broker.restart()

    after = probe()
    serving.wait_until_heard(after)
    assert isinstance(after.ask("1"), Granted)


def test_a_wrong_password_is_said_and_waited_out(broker: Mosquitto, responder: Callable[..., Responder]) -> None:
    assert broker.users is not None
    broker.users = {**broker.users, "responder": "changed"}
    broker.reload()
    serving = responder()

    wait_until(lambda: "check broker.credentials_file" in serving.log.read_text())

    assert serving.process.poll() is None
    assert "Traceback" not in serving.log.read_text()


_WITH_A_DEFECT = """
import sys
from paho.mqtt import client

def reconnect(_client):
    raise UnicodeError("label too long")

client.Client.reconnect = reconnect
from responder import cli
sys.exit(cli.run(["run", "--config", sys.argv[1]]))
"""


def test_where_the_connection_s_thread_has_ended_the_responder_ends_too_and_is_started_again(
    responder: Callable[..., Responder], tmp_path: Path
) -> None:
    serving = responder()
    serving.end(signal.SIGTERM)
    command = [sys.executable, "-c", _WITH_A_DEFECT, str(tmp_path / "responder.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1, "systemd starts it again, whatever the status; people and tests want to know"
    assert "the thread that talks with the broker has ended" in done.stderr


def test_a_defect_in_a_callback_is_logged_and_the_next_message_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        responder_id="here",
        broker=BrokerSettings(host="nowhere", tls=None),
        advertise_host="127.0.0.1",
        ports=Ports(first=6000, last=6003),
        authenticate=False,
        irtt=None,
        status_file=tmp_path / "status.json",
    )
    with closing(Lender(settings)) as lender:
        serving = desk.Desk(settings, lender)
    message = MQTTMessage(topic=TOPIC.encode())
    assert serving._client.on_message is not None
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(serving._pace, "admit", None)
        serving._client.on_message(serving._client, None, message)
    assert "_on_message failed; the connection goes on" in caplog.text
    serving._client.on_message(serving._client, None, message)
    assert serving._heard.qsize() == 1


# --- reading a request, without a broker ----------------------------------------------------------------------------

TOPIC = topics.topic("probe-1", topics.LEASE_REQUEST)


def test_a_good_request_is_read() -> None:
    request = LeaseRequest(request_id="1", probe_id="probe-1", link="viettel", length_s=30)
    assert desk.read(TOPIC, codec.encode(request)) == request


def test_a_request_for_another_probe_than_its_topic_says_is_none() -> None:
    request = LeaseRequest(request_id="1", probe_id="probe-2", link="viettel", length_s=30)
    assert desk.read(TOPIC, codec.encode(request)) == "wrong probe: it speaks for probe-2"


@pytest.mark.parametrize(
    "topic", ["", "probefleet/v1", topics.topic("probe-1", topics.LEASE_GRANT), "other/lease/request"]
)
def test_another_topic_is_no_request(topic: str) -> None:
    request = LeaseRequest(request_id="1", probe_id="probe-1", link="viettel", length_s=30)
    assert desk.read(topic, codec.encode(request)) == "wrong topic"
