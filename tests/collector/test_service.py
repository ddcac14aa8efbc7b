"""The collector as a whole: it begins with all its parts or not at all, and ends when one of them has."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from collector_helpers import Probe, collector_config, message, result, wait_until

from base import logs
from base.durable import StorageError
from collector import cli, service, settings
from collector.asking import Asker
from collector.influx import InfluxDB1
from collector.lock import JournalLock
from collector.subscriber import Subscriber
from collector.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lab.servers import Influxd, Mosquitto

PARTS = {"writer", "journal", "broker", "asker"}


@pytest.fixture
def config(broker: Mosquitto, influxd: Influxd, tmp_path: Path) -> settings.Settings:
    sink = {"kind": "influxdb1", "url": influxd.url, "database": "service"}
    return settings.load(collector_config(tmp_path, broker, sink))


def at_work() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & PARTS


def test_all_parts_run_until_told_to_stop(config: settings.Settings) -> None:
    stopping, seen = threading.Event(), list[set[str]]()

    def stop() -> None:
        try:
            wait_until(lambda: at_work() == PARTS)
            seen.append(at_work())
        finally:
            stopping.set()

    threading.Thread(target=stop).start()
    assert service.collect(config, stopping)
    assert seen == [PARTS]
    assert at_work() == set()


@pytest.mark.parametrize("part", [Writer, Subscriber, Asker])
def test_a_part_that_cannot_begin_leaves_no_other_at_work(
    part: type, config: settings.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise StorageError("database is locked")

    monkeypatch.setattr(part, "start", refuse)
    with pytest.raises(StorageError, match="locked"):
        service.collect(config, threading.Event())
    assert at_work() == set()
    JournalLock(config.journal.path).release()  # another collector may begin


@pytest.mark.parametrize("name", sorted(PARTS))
def test_where_a_thread_cannot_be_started_one_line_says_so_and_none_stays_at_work(
    name: str, config: settings.Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(settings, "load", lambda _: config)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logs, "set_up", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["probe-collector", "run"])
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert at_work() == set()
    finally:
        for thread in threading.enumerate():
            if isinstance(left := getattr(getattr(thread, "_target", None), "__self__", None), Subscriber):
                left.stop()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("can't start new thread: ")


def test_when_one_part_has_died_the_whole_ends_and_says_so(
    config: settings.Settings, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(_: InfluxDB1, __: Sequence[str]) -> None:
        raise ZeroDivisionError

    said: list[str] = []
    monkeypatch.setattr(InfluxDB1, "write", break_down)
    monkeypatch.setattr(logging.getLogger("collector.writer"), "exception", said.append, raising=False)
    with Probe(broker, "p1", tmp_path) as probe:
        probe.send(message(result(1)))
        sender = threading.Thread(target=wait_until, args=(lambda: probe.send(message(result(1))) or said,))
        sender.start()
        assert not service.collect(config, threading.Event()), "a part failed: status 1, and systemd starts it again"
        sender.join()
    assert said == ["the writer stopped on an error of its own"]
    assert at_work() == set()
