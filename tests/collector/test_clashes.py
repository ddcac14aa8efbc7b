from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from collector import clashes
from collector.journal import Journal
from wire.status import Status

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


def status(machine: str, *, started: int, at: int, spool_id: str = "s1", online: bool = True) -> Status:
    return Status(
        probe_id="p1",
        online=online,
        at=NOON + timedelta(seconds=at),
        started_at=NOON + timedelta(seconds=started),
        spool_id=spool_id,
        machine=machine,
    )


def test_two_agents_that_speak_in_turns_share_an_id() -> None:
    watch = clashes.Watch()
    assert watch.hear(status("here", started=0, at=0)) is None
    assert watch.hear(status("there", started=2, at=2, spool_id="s2")) is None
    shared = watch.hear(status("here", started=0, at=4))
    assert shared is not None
    assert {(agent.machine, agent.spool_id) for agent in (shared.one, shared.other)} == {
        ("here", "s1"),
        ("there", "s2"),
    }
    assert watch.hear(status("there", started=2, at=6, spool_id="s2")) is not None
    assert "spool s1 on here" in {str(shared.one), str(shared.other)}


def test_a_restart_is_no_second_agent_nor_is_what_the_old_one_said_late() -> None:
    watch = clashes.Watch()
    statuses = [
        status("here", started=0, at=0),
        status("here", started=0, at=300),
        status("here", started=400, at=401),
        status("here", started=0, at=300),  # said again by the broker
        status("here", started=0, at=350),  # late
        status("here", started=0, at=500, online=False),  # its last will
        status("here", started=400, at=700),
        status("here", started=900, at=901, spool_id="s2"),  # a new card
    ]
    assert [watch.hear(one) for one in statuses] == [None] * len(statuses)


def test_an_agent_whose_clock_is_behind_is_found_when_it_speaks_in_turns() -> None:
    watch = clashes.Watch()
    days = 86_400
    assert watch.hear(status("behind", started=-9 * days, at=-9 * days)) is None
    assert watch.hear(status("right", started=0, at=0)) is None
    assert watch.hear(status("behind", started=-9 * days, at=60 - 9 * days)) is None, "it may have come late"
    assert watch.hear(status("behind", started=-9 * days, at=70 - 9 * days)) is None, "so may this"
    assert watch.hear(status("right", started=0, at=120)) is None
    assert watch.hear(status("behind", started=-9 * days, at=60 - 9 * days)) is None, "said again by the broker"
    shared = watch.hear(status("behind", started=-9 * days, at=180 - 9 * days))
    assert shared is not None
    assert {shared.one.machine, shared.other.machine} == {"behind", "right"}


def test_many_restarts_are_not_remembered_for_ever() -> None:
    watch = clashes.Watch()
    for second in range(1000):
        watch.hear(status("here", started=second, at=second))
    assert len(watch._heard["p1"]) < 20


def test_who_shares_an_id_is_kept_and_listed(tmp_path: Path) -> None:
    shared = clashes.SharedId("p1", clashes.Agent(0, "here", "s1"), clashes.Agent(5, "there", "s2"))
    with Journal(tmp_path / "journal.db") as journal:
        assert "every number one result" in clashes.text(clashes.collect(journal))
        clashes.note(journal, shared, 10)
        clashes.note(journal, shared, 20)
        for number in range(500):  # agents that restart, and share on
            clashes.note(journal, shared._replace(one=clashes.Agent(100 + number, "here", "s1")), 100 + number)
    with Journal(tmp_path / "journal.db", read_only=True) as journal:
        found = clashes.collect(journal)
    assert len(found.shared_ids) <= 52
    there = next(one for one in found.shared_ids if one.machine == "there")
    assert there.times == 502
    assert "there" in clashes.text(found)
