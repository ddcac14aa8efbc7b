from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from collector.instants import microseconds, moment


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=7))])))
def test_an_instant_is_the_same_after_it_was_counted(at: datetime) -> None:
    assert moment(microseconds(at)) == at


def test_counting_begins_with_1970_in_utc() -> None:
    assert microseconds(datetime(1970, 1, 1, 7, tzinfo=timezone(timedelta(hours=7)))) == 0
    assert moment(1).isoformat() == "1970-01-01T00:00:00.000001+00:00"
