"""Two responders of one group, as on two addresses of one machine: real commands, real mosquitto, real iperf3."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from responder_helpers import Probe, Responder, client, is_running, listens, wait_until

from responder import cli
from wire.leases import Busy, Granted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HERE: dict[str, Any] = {"operator": "452-04", "cell": "4660", "transfers": 1}


@pytest.fixture
def pair(responder: Callable[..., Responder], probe: Callable[..., Probe]) -> tuple[dict[str, Responder], Probe, Probe]:
    """Start `near` and `far` with the same ports on different addresses, and two probes."""
    one, two = probe(), probe("probe-2", "two")
    addresses = {"near": "127.0.0.1", "far": "127.0.0.2"}
    running = {
        name: responder(responder_id=name, group="all", bind_address=at, advertise_host=at, irtt=None)
        for name, at in addresses.items()
    }
    for name, started in running.items():
        started.wait_until_heard(one, name=name)
    return running, one, two


def test_a_cell_is_lent_by_one_of_them_at_a_time_and_passed_on_at_its_end(
    pair: tuple[dict[str, Responder], Probe, Probe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, one, two = pair
    for number in range(4):  # both are asked at once
        one.request(f"a{number}", responder="near", **HERE)
        two.request(f"b{number}", responder="far", **HERE)
        answers = [one.reply(), two.reply()]
        assert sum(isinstance(answer, Granted) for answer in answers) <= 1, answers
        assert any(isinstance(answer, Busy) for answer in answers)
        for asking, answer in zip((one, two), answers, strict=True):
            if isinstance(answer, Granted):  # its link asks anew, for a cell of its own: that ends the lease
                asking.ask(f"c{number}", responder=answer.responder, **{**HERE, "cell": f"{asking.name}-far-away"})

    first = one.ask("1", responder="near", **HERE)
    assert isinstance(first, Granted)
    assert cli.run(["status", "--config", str(tmp_path / "near.yaml")]) == 0
    assert "near, group all: " in capsys.readouterr().out
    assert isinstance(two.ask("1", responder="far", **HERE), Busy)
    assert isinstance(two.ask("2", responder="far", **{**HERE, "cell": "4661"}), Granted), "another cell"
    later = two.ask("3", responder="far", window_s=120.0, **HERE)
    assert isinstance(later, Granted)
    assert 20 < later.starts_in_s < 32
    with client(first.ports[0], first, "-R", seconds=1) as running:
        running.wait(20)
    now = two.reply()
    assert isinstance(now, Granted)
    assert (now.responder, now.host, now.starts_in_s) == ("far", "127.0.0.2", 0.0)
    assert listens(now.ports[0])


def test_when_one_is_killed_with_9_the_other_lends_and_the_one_that_comes_again_knows_what_is_lent(
    pair: tuple[dict[str, Responder], Probe, Probe], responder: Callable[..., Responder]
) -> None:
    running, one, two = pair
    held = one.ask("1", responder="near", **HERE)
    assert isinstance(held, Granted)
    children = running["near"].children()
    running["near"].end(signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, children)))

    other = one.ask("2", responder="far", **HERE)
    assert isinstance(other, Granted), "the link's own lease at the dead one keeps it out"
    again = responder(responder_id="near", group="all", bind_address="127.0.0.1", irtt=None)
    again.wait_until_heard(two, name="near")
    assert isinstance(two.ask("1", responder="near", **HERE), Busy), "it has forgotten what the other one lends"
    assert not listens(held.ports[0]) or held.ports[0] in other.ports
