"""The collector at work: its parts put together, started, watched, and stopped again whatever happens.

Every part has a thread that would keep the process alive by itself. A process that goes on with one part missing is
worse than one that ends, since only what has ended is started again.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from base.configfile import ConfigError
from collector import clashes, fleet, points, salvage
from collector.asking import Asker
from collector.influx import open_sink
from collector.journal import Journal
from collector.limits import Limits, Rate
from collector.lock import JournalLock
from collector.subscriber import LEAVES, Subscriber
from collector.writer import Writer
from wire import codec, topics
from wire.status import Status

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from collector.fleet import Fleet
    from collector.journal import ProbeStatus
    from collector.settings import ResendSettings, ServesSettings, Settings
    from wire.status import ResponderStatus

log = logging.getLogger(__name__)

_WATCH_S: Final = 1.0
_SAY_AGAIN_AFTER_US: Final = 600_000_000


class NoRoomError(Exception):
    """A thread cannot be started; the text says what to look at."""


def collect(config: Settings, stopping: threading.Event) -> bool:
    """Collect until told to stop; return whether it was that, and not a part that failed.

    Raise StorageError, ConfigError, CredentialsError or NoRoomError when it cannot begin; then nothing runs any more.
    """
    gc.freeze()
    gc.set_threshold(10_000)  # results come and go by the thousand, without cycles
    with contextlib.ExitStack() as running:
        running.enter_context(JournalLock(config.journal.path))
        salvage.refuse_damaged(config.journal.path)
        writer = _writer(config)
        tell = writer.add_status if writer else lambda _line: None
        subscriber = Subscriber(
            config.broker,
            _journal(config),
            client_id=config.client_id,
            subscriptions=subscriptions(config),
            limits=Limits(Rate(config.limits.results_per_minute / 60, config.limits.kilobytes_per_minute * 1000 / 60)),
            handover=writer.handover if writer else None,
            on_stored=writer.wake if writer else lambda: None,
            on_status=_on_status(_journal(config, fsync=False), tell),
            on_responder=_on_responder(tell),
        )
        asker = Asker(_journal(config, fsync=False), _resend(config), subscriber.command, tell)
        log.info("journal %s, sink %s", config.journal.path, config.sink.kind)
        for part in (writer, subscriber, asker):
            if part is not None:
                _start(part)
                running.callback(part.stop)
        while not stopping.wait(_WATCH_S) and subscriber.alive and (writer is None or writer.alive):
            pass
        asked_to = stopping.is_set()
        log.info("stopping")
    return asked_to


def _start(part: Writer | Subscriber | Asker) -> None:
    try:
        part.start()
    except RuntimeError as error:  # of Thread.start
        raise NoRoomError(
            f"{error}: this machine or service has too many (`systemctl status probefleet-collector`: Tasks)"
        ) from error


def subscriptions(config: Settings) -> list[str]:
    """Name what to hear: every probe, or those of some groups; shared with other collectors, or alone."""
    branches: tuple[str, ...] = ("+",)
    if config.serves is not None:
        branches = _fleet(config.serves).probes(config.serves.groups)
    names = [topics.topic(branch, leaf) for branch in branches for leaf in LEAVES if leaf != topics.RESPONDER]
    names.append(topics.every_probe(topics.RESPONDER))
    return [topics.shared(config.share, name) for name in names] if config.share else names


def _fleet(serves: ServesSettings) -> Fleet:
    """Read the site list; raise ConfigError, also where a group is in it that nobody belongs to."""
    found = fleet.load(serves.sites_file)
    if unknown := found.unknown(serves.groups):
        raise ConfigError(serves.sites_file, [f": no site is in group '{group}' (serves.groups)" for group in unknown])
    return found


def _resend(config: Settings) -> ResendSettings:
    """Ask for nothing by itself where others share the work: what is not here is with them."""
    return config.resend if config.share is None else msgspec.structs.replace(config.resend, ask=False)


def _writer(config: Settings) -> Writer | None:
    if config.sink.kind == "none":
        return None
    return Writer(_journal(config, fsync=False), open_sink(config.sink))


def _journal(config: Settings, *, fsync: bool = True) -> Journal:
    quarantine_max_bytes = config.journal.quarantine_max_mb * 1024 * 1024
    return Journal(config.journal.path, quarantine_max_bytes=quarantine_max_bytes, fsync=fsync)


def _on_status(journal: Journal, tell: Callable[[str], None]) -> Callable[[ProbeStatus, int, bool], None]:
    """Make points of statuses, and see who shares a probe id. Takes over `journal`, a connection of its own.

    What is news is a later point than the last news of that probe, also where it was made before a last will came. What
    comes again makes its old point again; where it would make one of now, none (`collector.known`).
    """
    watch = clashes.Watch()
    told_us: dict[str, int] = {}
    said_us: dict[str, int] = {}

    def hear(heard: ProbeStatus, received_us: int, news: bool) -> None:  # noqa: FBT001  # a callback
        status = codec.decode(heard.payload, Status)
        at_us = points.status_time_us(status, received_us)
        if news:
            at_us = told_us[status.probe_id] = max(at_us, told_us.get(status.probe_id, at_us - 1) + 1)
        if news or at_us != received_us:
            tell(points.status_line(status, at_us))
        shared = watch.hear(status)
        if shared is None:
            return
        clashes.note(journal, shared, received_us)
        agents = f"{shared.one}; {shared.other}"
        tell(points.shared_id_line(shared.probe_id, agents, received_us))
        if received_us - said_us.get(shared.probe_id, 0) > _SAY_AGAIN_AFTER_US:
            said_us[shared.probe_id] = received_us
            log.warning("two agents say that they are %s: %s; give one of them its own id", shared.probe_id, agents)

    return hear


def _on_responder(tell: Callable[[str], None]) -> Callable[[ResponderStatus, int], None]:
    return lambda status, received_us: tell(points.responder_line(status, received_us))
