"""A bad day at a site: cables, modems, passwords, disks. The agent says what is wrong, and goes on when it is right."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import yaml

from agent.measurements.throughput_options import ThroughputOptions
from lab.story import PATIENCE_S, expect_nothing_lost_and_nothing_twice, until
from wire import topics
from wire.measured import Failed, Radio, Throughput
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.fleet import Fleet, ProbeBox
    from lab.story import Story
    from wire.results import Result

pytestmark = [pytest.mark.journey, pytest.mark.root]


def only_probe(fleet: Fleet) -> ProbeBox:
    (probe,) = fleet.probes.values()
    return probe


def test_a_cable_pulled_mid_test_is_a_failure_in_time_and_the_next_test_works(story: Story) -> None:
    probe = only_probe(story.fleet)
    cell = probe.cells["viettel"]
    quiet = cell.report().down.bytes
    until(lambda: cell.report().down.bytes > quiet + 3_000_000, "a download flows")
    cell.cut()

    def failed(result: Result) -> bool:
        return (
            result.link == "viettel"
            and result.job is not None
            and isinstance(result.outcome, Failed)
            and (result.job.name == "light")
        )

    result = story.wait_for(failed)
    assert isinstance(result.outcome, Failed)
    assert result.outcome.reason is Reason.LINK_LOST
    assert result.elapsed_s < ThroughputOptions().longest_s + 2 * 30, "the test's deadline, and two looks at the radio"
    cell.restore()
    story.wait_for(lambda r: r.link == "viettel" and isinstance(r.outcome, Throughput))
    expect_nothing_lost_and_nothing_twice(story.fleet)


def test_a_modem_unplugged_and_plugged_in_again(story: Story) -> None:
    modem = only_probe(story.fleet).modems["viettel"]

    def radio(result: Result) -> bool:
        return result.link == "viettel" and result.job is not None and result.job.measurement == "radio"

    story.wait_for(lambda r: radio(r) and isinstance(r.outcome, Radio))
    modem.unplug()
    result = story.wait_for(lambda r: radio(r) and isinstance(r.outcome, Failed))
    assert isinstance(result.outcome, Failed)
    assert result.outcome.reason in {Reason.NO_MODEM, Reason.LINK_LOST}
    modem.replug()
    story.wait_for(lambda r: radio(r) and isinstance(r.outcome, Radio))
    expect_nothing_lost_and_nothing_twice(story.fleet)


def test_a_port_that_is_no_modem_is_named_and_the_rest_goes_on(story: Story) -> None:
    probe = only_probe(story.fleet)
    reconfigure(probe, lambda document: document["links"][0].update(modem="/dev/null"))
    # The restart may have cut off a run: that is a failed result too.
    result = story.wait_for(lambda r: isinstance(r.outcome, Failed) and r.outcome.reason is not Reason.INTERRUPTED)
    assert isinstance(result.outcome, Failed)
    assert "/dev/null" in result.outcome.detail
    tested = story.wait_for(lambda r: r.link == "viettel" and isinstance(r.outcome, Throughput))
    assert isinstance(tested.outcome, Throughput)
    assert not tested.outcome.valid, "without a word from the modem it may have been 3G: no sample"


def test_a_broker_that_refuses_the_password_costs_no_result(story: Story) -> None:
    probe = only_probe(story.fleet)
    story.wait_for(lambda r: True)
    probe.agent.stop()
    credentials = probe.folder / "credentials"
    right = credentials.read_text()
    credentials.write_text(f"{probe.plan.probe_id}:wrong\n")
    probe.agent.start()
    until(lambda: "refuses this probe" in probe.agent.log_file.read_text(), "the agent says that it is refused")
    until(lambda: probe.backlog() >= 3, "results wait in the spool")
    assert ":wrong" not in probe.agent.log_file.read_text()
    probe.agent.stop()
    credentials.write_text(right)
    probe.agent.start()
    story.wait_for(lambda r: True, 3)
    expect_nothing_lost_and_nothing_twice(story.fleet)


def test_garbage_and_other_peoples_topics_change_nothing(story: Story) -> None:
    fleet = story.fleet
    probe = only_probe(fleet)
    own = topics.topic(probe.plan.probe_id, topics.RESULT)
    publish(fleet, probe, own, b"\xff" * 1_000_000)
    publish(fleet, probe, own, b'{"probe_id": "someone-else"}')
    publish(fleet, probe, topics.topic("lc-mu-ca-1", topics.RESULT), b"forged")
    story.wait_for(lambda r: True, 5)
    command = [sys.executable, "-m", "collector.cli", "stats", "--config", str(fleet.collector.config), "--json"]
    stats = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '"too_large"' in stats
    assert "lc-mu-ca-1" not in stats, "the broker's ACL keeps a probe to its own branch"
    expect_nothing_lost_and_nothing_twice(fleet)


def test_a_full_disk_under_the_spool_loses_nothing(story: Story) -> None:
    probe = only_probe(story.fleet)
    probe.agent.stop()
    with small_disk(probe.folder / "data", kib=1024) as disk:
        probe.agent.start()
        story.wait_for(lambda r: True, 2)
        ballast = disk / "ballast"
        fill(ballast)
        until(lambda: "free some space" in probe.agent.log_file.read_text(), "the agent says that its disk is full")
        assert probe.agent.pid is not None
        held = probe.backlog()
        ballast.unlink()
        story.wait_for(lambda r: True, 4)
        story.fleet.finish()
        (count,) = story.fleet.counts()
        assert count.made == count.spooled == count.journalled == count.points == count.distinct
        assert count.waiting <= held, "what was acked while the disk could not note it is only sent again"


def test_a_full_disk_under_the_journal_acknowledges_nothing_it_does_not_hold(story: Story) -> None:
    fleet = story.fleet
    fleet.collector.stop()
    with small_disk(fleet.journal_file.parent, kib=1024, keep=True) as disk:
        fleet.collector.start()
        story.wait_for(lambda r: True, 2)
        ballast = disk / "ballast"
        fill(ballast)
        until(lambda: "nothing is acknowledged" in fleet.collector.log_tail(100), "the collector says so")
        assert fleet.collector.pid is not None
        waiting = only_probe(fleet).backlog()
        until(lambda: only_probe(fleet).backlog() > waiting, "results wait at the probe")
        ballast.unlink()
        story.wait_for(lambda r: True, 4)
        expect_nothing_lost_and_nothing_twice(fleet)


def reconfigure(probe: ProbeBox, change: object) -> None:
    """Change agent.yaml as a technician would, and restart the agent."""
    assert callable(change)
    path = probe.folder / "agent.yaml"
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))
    probe.agent.restart()


def publish(fleet: Fleet, probe: ProbeBox, topic: str, payload: bytes) -> None:
    """Publish with a probe's own credentials."""
    password = fleet.passwords[probe.plan.probe_id]
    file = probe.folder / "payload"
    file.write_bytes(payload)
    subprocess.run(
        [
            *(*fleet.network.prefix(probe.plan.probe_id), "mosquitto_pub", "-h", fleet.place.host),
            *("-p", str(fleet.place.broker_port), "--cafile", str(fleet.place.ca_file)),
            *("-u", probe.plan.probe_id, "-P", password, "-q", "1", "-t", topic, "-f", str(file)),
        ],
        check=True,
        timeout=PATIENCE_S,
    )


@contextmanager
def small_disk(folder: Path, *, kib: int, keep: bool = False) -> Iterator[Path]:
    """Put a small disk (tmpfs) where `folder` is; with `keep`, with the folder's files on it."""
    kept = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} if keep else {}
    modes = {name: (folder / name).stat().st_mode for name in kept}
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=True)
    try:
        for name, content in kept.items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(modes[name])
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Take all the space there is."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return
