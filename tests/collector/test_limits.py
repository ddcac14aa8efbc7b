from hypothesis import given
from hypothesis import strategies as st

from collector.intake import Arrival, Intake
from collector.limits import Limits, Rate
from wire import codec, topics

RATE = Rate(results_per_s=10, bytes_per_s=1000)


def test_a_minute_of_it_passes_at_once_and_then_what_the_rate_allows() -> None:
    limits = Limits(RATE)
    passed = 0
    for _ in range(100):
        if limits.admit("p1", size_bytes=10, now_s=0.0):
            limits.count("p1", 50)
            passed += 50
    assert passed == 600
    assert not limits.admit("p1", size_bytes=10, now_s=0.0)
    assert limits.admit("p1", size_bytes=10, now_s=5.0)


def test_bytes_count_as_results_do() -> None:
    limits = Limits(RATE)
    assert [limits.admit("p1", size_bytes=25_000, now_s=0.0) for _ in range(4)] == [True, True, True, False]
    assert limits.admit("p1", size_bytes=25_000, now_s=30.0)


def test_one_probe_does_not_spend_what_is_anothers() -> None:
    limits = Limits(RATE)
    limits.admit("p1", size_bytes=1_000_000, now_s=0.0)
    assert not limits.admit("p1", size_bytes=1, now_s=0.0)
    assert limits.admit("p2", size_bytes=1, now_s=0.0)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 400), st.integers(0, 50_000)), min_size=1, max_size=60),
    st.sampled_from([0.0, 50.0]),
)
def test_over_any_time_no_more_passes_than_the_rate_the_burst_and_one_message(
    messages: list[tuple[float, int, int]], back_s: float
) -> None:
    limits = Limits(RATE)
    now_s, results_passed, bytes_passed = 100.0, 0, 0
    for index, (pause_s, results, size_bytes) in enumerate(messages):
        now_s += pause_s if index != 1 else -back_s
        if limits.admit("p1", size_bytes=size_bytes, now_s=now_s):
            limits.count("p1", results)
            results_passed, bytes_passed = results_passed + results, bytes_passed + size_bytes
    spent_s = sum(pause_s for pause_s, _, _ in messages) + 60
    assert results_passed <= spent_s * RATE.results_per_s + 400 + 1
    assert bytes_passed <= spent_s * RATE.bytes_per_s + 50_000 + 1


def test_memory_is_bounded_whatever_names_come() -> None:
    limits = Limits(RATE)
    for number in range(120_000):
        limits.admit(f"p{number}", size_bytes=100, now_s=number / 10_000)
    assert len(limits._owed) <= 50_001


def test_what_is_held_back_is_neither_stored_nor_refused() -> None:
    limits = Limits(Rate(results_per_s=1 / 60, bytes_per_s=1e9))
    arrival = Arrival(topics.topic("p1", topics.RESULT), codec.pack([b'{"probe_id":"p1"}']), 20)
    intake = Intake(limits=limits, now_s=0.0)
    for _ in range(3):
        intake.take(arrival)
    assert intake.held_back == {"p1": 2}
    assert len(intake.parked) == 1
