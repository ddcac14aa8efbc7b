"""A card that lets nothing go: what is acknowledged is not sent again, and all the rest has its turn."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import owed as owed_module
from agent import publisher as publisher_module
from agent.owed import Owed
from agent.publisher import LAST_RESEND_S, WINDOW, Publisher
from agent.spool import Spool
from base.broker import BrokerSettings
from base.durable import StorageError
from wire import topics
from wire.codec import check, decode_result, encode, unpack
from wire.delivery import CONFLICT, Ack, Refusal
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def result() -> Result:
    return Result(
        probe_id="p1", site="s1", started_at=datetime.now(UTC), agent_version="0", outcome=Failed(reason=Reason.BUSY)
    )


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
    yield spool
    spool.close()


class Collector:
    """Acknowledges every result that the publisher sends, by a clock that the test moves."""

    def __init__(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.sendings: list[int] = []
        self.publisher = Publisher(BrokerSettings(host="nowhere", tls=None), "p1", spool, self._status)
        monkeypatch.setattr(publisher_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(self.publisher._client, "publish", self._publish)
        self.publisher._connected.set()
        self._to_say: list[Ack] = []

    @staticmethod
    def _status() -> Status:
        return Status(probe_id="p1", online=True)

    def _publish(self, topic: str, payload: bytes, *_args: object, **_named: object) -> SimpleNamespace:
        if topic.endswith(topics.RESULT):
            for raw in unpack(payload):
                one = decode_result(raw)
                self.sendings.append(one.seq)
                self._to_say.append(Ack(spool_id=one.spool_id, stored=((one.seq, one.seq),), checks=check(raw)))
        return SimpleNamespace(is_published=lambda: True)

    def work(self, for_s: float) -> None:
        until_s = self.now_s + for_s
        while self.now_s < until_s:
            self.publisher._send_all()
            said, self._to_say = self._to_say, []
            for ack in said:
                message = SimpleNamespace(topic=topics.topic("p1", topics.ACK), payload=encode(ack))
                self.publisher._on_message(self.publisher._client, None, message)  # type: ignore[call-arg]
            self.now_s += 30.0


def test_every_result_on_a_card_that_lets_none_go_is_sent_once(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool._db.execute("PRAGMA synchronous=OFF")
    for _ in range(2 * WINDOW + 100):
        spool.append(result())
    collector = Collector(spool, monkeypatch)
    spool._db.execute("PRAGMA query_only=1")
    collector.work(for_s=2 * LAST_RESEND_S)
    assert collector.sendings == list(range(1, 2 * WINDOW + 101)), "each once, also behind the first window"
    assert collector.publisher.wait_until_empty(0), "all is delivered"
    assert spool.counts().waiting == 2 * WINDOW + 100
    spool._db.execute("PRAGMA query_only=0")
    collector.work(for_s=90.0)
    assert spool.counts().waiting == 0, "let go when the disk is better, without another word of the collector's"
    number = spool.append(result()).seq
    collector.work(for_s=60.0)
    assert collector.sendings[2 * WINDOW + 100 :] == [number]


def test_what_an_acknowledgement_does_not_mean_is_sent_on(spool: Spool) -> None:
    for _ in range(3):
        spool.append(result())
    payloads = {row.seq: row.payload for row in spool.oldest(10)}
    spool._db.execute("PRAGMA query_only=1")
    with pytest.raises(StorageError):
        spool.acknowledge(spool.spool_id, [(1, 3)], check(payloads[1]) + "----" + check(payloads[3]))
    assert [row.seq for row in spool.oldest(10)] == [2]
    spool._db.execute("PRAGMA query_only=0")
    assert spool.settle() == 2
    assert [row.seq for row in spool.oldest(10)] == [2]


def test_the_numbers_of_a_new_life_are_others(spool: Spool) -> None:
    """An old copy of a card: the collector has other results under its numbers, which it acknowledges late."""
    first_life = spool.spool_id
    for _ in range(3):
        spool.append(result())
    spool._db.execute("PRAGMA query_only=1")
    with pytest.raises(StorageError):
        spool.acknowledge(first_life, [(1, 2)])
    spool._db.execute("PRAGMA query_only=0")
    spool.refuse(first_life, [Refusal(seq=3, reason=CONFLICT)])
    second_life = spool.spool_id
    assert [decode_result(row.payload).seq for row in spool.oldest(10)] == [1], "under its new number"
    assert spool.settle() == 2
    assert [decode_result(row.payload).spool_id for row in spool.oldest(10)] == [second_life]


def test_a_file_that_is_rebuilt_is_owed_nothing(spool: Spool) -> None:
    for _ in range(300):
        spool.append(result())
    spool._db.execute("PRAGMA query_only=1")
    with pytest.raises(StorageError):
        spool.acknowledge(spool.spool_id, [(1, 10)])
    spool._db.execute("PRAGMA query_only=0")
    spool._db.close()  # as after damage that could not be mended
    with pytest.raises(StorageError):
        spool.counts()
    assert [row.seq for row in spool.oldest(300)] == list(range(1, 301))


@given(st.lists(st.sets(st.integers(1, 60))), st.integers(1, 12))
def test_ranges_hold_what_was_added_and_no_more(added: list[set[int]], at_most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owed_module, "_AT_MOST", at_most)
        owed = Owed()
        for numbers in added:
            owed.add(numbers)
        held = {number for first, last in owed for number in range(first, last + 1)}
        assert held <= set().union(*added)
        assert len(list(owed)) <= at_most
        others = [number for number in range(1, 61) if any(a < number < b for a, b in owed.others())]
        assert others == [number for number in range(1, 61) if number not in held]
        assert bool(owed) == bool(held)
    everything = Owed()
    for numbers in added:
        everything.add(numbers)
    assert {number for first, last in everything for number in range(first, last + 1)} == set().union(*added)
