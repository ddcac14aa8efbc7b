"""Who gets at a lent server and who does not, and what a client costs that vanishes: the real command, real iperf3."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from responder_helpers import PATIENCE_S, Probe, Responder, client, iperf3, is_running, listens, wait_until

from responder import cli, servers
from wire import codec, topics
from wire.leases import Busy, Granted
from wire.status import ResponderStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def install_iperf3(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, features: str) -> None:
    """Put a script first in PATH that says of itself what such an iperf3 says."""
    script = folder / "iperf3"
    script.write_text(
        f"#!/bin/sh\necho 'iperf {version} (cJSON 1.7.15)'\necho 'Optional features available: {features}'\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(("version", "told"), [("3.12", False), ("3.16", False), ("3.17.1", True), ("4.0", True)])
def test_the_password_is_padded_the_old_way_whatever_the_server_s_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, *, told: bool
) -> None:
    install_iperf3(tmp_path, monkeypatch, version, "SCTP, authentication")
    gate = servers.Gate()
    try:
        assert ("--use-pkcs1-padding" in gate.admit("lease-1", "x").options) is told
    finally:
        gate.close()


def test_an_iperf3_that_cannot_ask_for_a_password_is_named_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_iperf3(tmp_path, monkeypatch, "3.18", "SCTP")
    with pytest.raises(servers.ServerError, match=r"iperf3 3\.18 was built without OpenSSL .* `authenticate: false`"):
        servers.Gate()


def test_a_folder_that_was_cleaned_away_is_made_anew_and_leases_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = servers.Gate()
    try:
        before = gate.admit("lease-1", "x")
        shutil.rmtree(before.key_file.parent)
        after = gate.admit("lease-2", "x")
        assert after.key_file.read_text().startswith("-----BEGIN")
        assert after.users_file.parent == after.key_file.parent
        assert "the key is made anew" in caplog.text
        assert gate.admit("lease-3", "x").key_file == after.key_file, "once"
    finally:
        gate.close()
    assert not after.key_file.parent.exists()


def test_key_and_passwords_are_where_nobody_cleans_up_and_nobody_else_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/elsewhere")
    gate = servers.Gate()
    try:
        login = gate.admit("lease-1", "x")
        assert login.key_file.parent.parent == tmp_path
        modes = [path.stat().st_mode & 0o777 for path in (login.key_file.parent, login.key_file, login.users_file)]
        assert modes == [0o700, 0o600, 0o600]
    finally:
        gate.close()


def granted_by(asking: Probe, request_id: str, **more: object) -> Granted:
    answer = asking.ask(request_id, **more)  # type: ignore[arg-type]  # fields of a request
    assert isinstance(answer, Granted), answer
    return answer


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    return str(json.loads(done.stdout).get("error", ""))


def test_a_stranger_is_refused_and_the_lease_s_own_client_is_served_afterwards(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    granted = granted_by(asking, "1", transfers=1)
    assert granted.user
    assert "PUBLIC KEY" in granted.public_key

    assert "authorization failed" in complaint(iperf3(granted.ports[0]))
    forged = msgspec.structs.replace(granted, token="guessed")
    assert "authorization failed" in complaint(iperf3(granted.ports[0], granted=forged))

    # The server that the forger used up is being started anew: until it is, there is nobody to talk to.
    wait_until(lambda: complaint(iperf3(granted.ports[0], granted=granted)) == "")
    wait_until(lambda: "are free: done" in serving.log.read_text())


def test_rubbish_uses_a_server_up_and_it_is_started_anew(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    granted = granted_by(asking, "1", transfers=1)
    with socket.create_connection(("127.0.0.1", granted.ports[0]), timeout=PATIENCE_S) as rude:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100)
    wait_until(lambda: "a stranger on port" in serving.log.read_text())
    wait_until(lambda: listens(granted.ports[0]))

    assert complaint(iperf3(granted.ports[0], granted=granted)) == ""


def test_who_connects_and_says_nothing_is_thrown_out(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    granted = granted_by(asking, "1", transfers=2)
    with client(granted.ports[1], granted, seconds=25):  # so that nobody thinks that the lease's client does not come
        with socket.create_connection(("127.0.0.1", granted.ports[0]), timeout=PATIENCE_S):
            wait_until(lambda: "who says nothing" in serving.log.read_text())
        wait_until(lambda: listens(granted.ports[0]))

        assert complaint(iperf3(granted.ports[0], granted=granted)) == ""


def test_a_used_or_expired_lease_opens_nothing_any_more(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    used = granted_by(asking, "1", transfers=1)
    assert complaint(iperf3(used.ports[0], granted=used)) == ""
    wait_until(lambda: not listens(used.ports[0]))
    assert complaint(iperf3(used.ports[0], granted=used)), "replayed, with nobody there"

    whole_pool = granted_by(asking, "2", transfers=4, length_s=3.0)
    assert "authorization failed" in complaint(iperf3(used.ports[0], granted=used)), (
        "replayed on another lease's server"
    )
    wait_until(lambda: not any(map(listens, whole_pool.ports)))
    assert complaint(iperf3(whole_pool.ports[0], granted=whole_pool)), "expired"
    next_one = granted_by(asking, "3", transfers=4)
    assert "authorization failed" in complaint(iperf3(next_one.ports[0], granted=whole_pool)), "expired, replayed"


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_a_client_that_vanishes_in_mid_test_frees_its_slot_for_the_one_who_waits(
    responder: Callable[..., Responder], probe: Callable[..., Probe], direction: str
) -> None:
    serving, asking, waiting = responder(), probe(), probe("probe-2", "two")
    serving.wait_until_heard(asking)
    granted = granted_by(asking, "1", transfers=4, length_s=60.0)
    with client(granted.ports[0], granted, *(["-R"] if direction == "download" else []), seconds=30) as running:
        wait_until(lambda: f"{granted.ports[0]}" in serving.log.read_text() and connected(granted.ports[0]))
        time.sleep(1)  # in mid-test
        running.send_signal(signal.SIGSTOP)
        stopped_s = time.monotonic()

        booked = granted_by(waiting, "2", transfers=4, window_s=120.0)
        assert 20 < booked.starts_in_s <= 60, "promised for when the lease expires at the latest"
        now = waiting.reply()
        freed_s = time.monotonic() - stopped_s

    assert isinstance(now, Granted)
    assert now.starts_in_s == 0
    assert all(map(listens, now.ports))
    # 10 s is the goal. The rest is for a busy machine: servers may take up to 3 s to listen (servers.start), looks come
    # late. Stock iperf3: the test's length + 40 s. How fast it really is, `probe-lab bench stuck` measures.
    assert freed_s < 10 + 8
    assert "its client has vanished" in serving.log.read_text()


def connected(port: int) -> bool:
    done = subprocess.run(["ss", "-tnH", f"sport = :{port}"], capture_output=True, text=True, check=True)
    return done.stdout.count("ESTAB") >= 2


def test_killed_with_9_under_load_and_started_again_nothing_is_doubled_and_nothing_left(
    responder: Callable[..., Responder], probe: Callable[..., Probe], pool: tuple[int, int]
) -> None:
    serving, one, two = responder(), probe(), probe("probe-2", "two")
    serving.wait_until_heard(one)
    held = granted_by(one, "1", transfers=2)
    booked = granted_by(two, "1", transfers=4, window_s=120.0)
    assert booked.starts_in_s > 0
    with client(held.ports[0], held, "-R", seconds=20) as running:
        wait_until(lambda: connected(held.ports[0]))
        children = serving.children()
        serving.end(signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, children)))
        assert not any(map(listens, range(pool[0], pool[1] + 1))), "an orphan"
        running.wait(PATIENCE_S)

    successor = responder()
    successor.wait_until_heard(one)
    whole_pool = granted_by(two, "2", transfers=4)
    assert len(set(whole_pool.ports)) == 4
    assert isinstance(one.ask("2", transfers=1), Busy), "lent twice"
    assert "authorization failed" in complaint(iperf3(held.ports[0], granted=held)), "a lease of the dead one"
    assert list(successor.children().values()).count("iperf3") == 4


def test_two_probes_in_one_cell_are_served_one_after_the_other(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, one, two = responder(), probe(), probe("probe-2", "two")
    serving.wait_until_heard(one)
    here = {"operator": "452-04", "cell": "4660", "transfers": 1}
    first = granted_by(one, "1", **here)
    second = granted_by(two, "1", window_s=60.0, **here)
    assert second.starts_in_s > 0
    done = threading.Thread(target=iperf3, args=(first.ports[0],), kwargs={"granted": first})
    done.start()
    now = two.reply()
    done.join()
    assert isinstance(now, Granted)
    assert now.starts_in_s == 0
    assert complaint(iperf3(now.ports[0], granted=now)) == ""


def test_status_tells_who_tests_who_waits_and_what_was_counted(
    responder: Callable[..., Responder], probe: Callable[..., Probe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serving, one, two = responder(), probe(), probe("probe-2", "two")
    config = str(tmp_path / "responder.yaml")
    serving.wait_until_heard(one)
    granted_by(one, "1", transfers=4)
    granted_by(two, "1", transfers=1, window_s=60.0, operator="452-04", cell="7")

    def told() -> dict[str, object]:
        assert cli.run(["status", "--config", config, "--json"]) == 0
        document: dict[str, object] = json.loads(capsys.readouterr().out)
        return document

    wait_until(lambda: told()["waiting"])
    now = told()
    assert [holder["probe"] for holder in now["testing"]] == ["probe-1"]  # type: ignore[attr-defined]  # JSON
    assert [holder["cell"] for holder in now["waiting"]] == ["452-04 7"]  # type: ignore[attr-defined]  # JSON
    assert now["status"]["counts"]["booked"] == 1  # type: ignore[index]  # JSON
    assert cli.run(["status", "--config", config]) == 0
    table = capsys.readouterr().out
    assert "1 testing, 1 waiting" in table
    assert "stuck freed" in table

    assert serving.end(signal.SIGTERM) == 0
    assert cli.run(["status", "--config", config]) == 1
    assert "is a responder running?" in capsys.readouterr().err


def test_a_request_to_another_responder_is_left_to_it(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    with pytest.raises(queue.Empty):
        asking.ask("1", responder="elsewhere", wait_s=0.5)
    assert isinstance(asking.ask("2", responder="here"), Granted)


def test_the_collector_hears_how_things_stand_and_that_the_responder_has_gone(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, asking = responder(), probe()
    serving.wait_until_heard(asking)
    listening = probe("collector", "c")
    listening.listen(topics.every_probe(topics.RESPONDER))
    there = codec.decode(listening.heard.get(timeout=PATIENCE_S), ResponderStatus)
    assert (there.responder, there.online, there.ports) == ("here", True, 4)
    serving.end(signal.SIGKILL)
    assert not codec.decode(listening.heard.get(timeout=PATIENCE_S), ResponderStatus).online
