"""One probe's questions do not cost another its answer."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from responder_helpers import PATIENCE_S, Probe, Responder

from responder.pace import BURST, REQUESTS_PER_S, Pace
from wire import codec, topics
from wire.leases import Granted, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_burst_passes_at_once_and_then_what_the_pace_allows() -> None:
    pace = Pace()
    assert sum(pace.admit("a", 0.0) for _ in range(1000)) == BURST
    assert pace.admit("b", 0.0), "what is another's is not spent"
    assert sum(pace.admit("a", 10.0) for _ in range(1000)) == 10 * REQUESTS_PER_S
    assert sum(pace.admit("a", 1e6) for _ in range(1000)) == BURST


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.sampled_from([0.0, 50.0]))
def test_over_any_time_no_more_passes_than_the_pace_and_the_burst(pauses_s: list[float], back_s: float) -> None:
    pace, now_s, passed = Pace(), 100.0, 0
    for index, pause_s in enumerate(pauses_s):
        now_s += -back_s if index == 1 else pause_s
        passed += pace.admit("a", now_s)
    assert passed <= sum(pauses_s) * REQUESTS_PER_S + BURST + 1


def test_memory_is_bounded_whatever_names_come() -> None:
    pace = Pace()
    for number in range(25_000):
        pace.admit(f"p{number}", number / 10_000)
    assert len(pace._paid_until_s) <= 10_001


def test_who_asks_thousands_of_times_costs_nobody_else_his_answer(
    responder: Callable[..., Responder], probe: Callable[..., Probe]
) -> None:
    serving, mad, other = responder(), probe(), probe("probe-2", "two")
    serving.wait_until_heard(mad)
    enough = threading.Event()

    def ask_and_ask() -> None:
        request = LeaseRequest(request_id="1", probe_id=mad.name, link="viettel", length_s=30, transfers=0)
        while not enough.is_set():
            for _ in range(100):
                mad._client.publish(topics.topic(mad.name, topics.LEASE_REQUEST), codec.encode(request), qos=0)
            time.sleep(0.02)

    asking = threading.Thread(target=ask_and_ask)
    asking.start()
    try:
        time.sleep(2)  # by then more than the responder's queue holds has come
        answers = [other.ask(str(number), transfers=number % 2) for number in range(4)]
    except queue.Empty:
        answers = []
    finally:
        enough.set()
        asking.join(PATIENCE_S)
    assert [type(answer) for answer in answers] == [Granted] * 4
    assert "too often" in serving.log.read_text()
