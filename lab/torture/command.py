"""`probe-lab torture`: one fault a round, in random order and at random moments; then what is where is compared."""

from __future__ import annotations

import argparse
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from base import table
from lab.programs import ProgramError
from lab.servers import ServerError
from lab.torture import judge, known
from lab.torture.disk import ShimError
from lab.torture.faults import FAULTS, Case
from lab.torture.stand import PROBES, Stand

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_PER_S: Final = 25.0
_CLOCK_MAY_STEP: Final = timedelta(seconds=30)
_EXAMPLES: Final = """\
examples:
  probe-lab torture                             every fault once, in about two minutes
  probe-lab torture --rounds 200 --check        an evening; exit 1 if anything was lost, late or came twice
  probe-lab torture --seed 7 --rounds 5 --json  the faults, their order and their choices as every time with this seed
  probe-lab torture --fault 'old card put back' --rounds 3

A seed repeats what is chosen (faults, victims, how long is waited), not what the machine makes of it: the moment at
which a program is struck, and so what is in flight then, is another one every time.
"""


class Tally(msgspec.Struct):
    """One row of the table. What was on a card that was taken away or destroyed does not count as lost.

    `late`: everybody said that all was done, and it came to journal or InfluxDB only then.
    """

    fault: str
    rounds: int = 0
    results: int = 0
    lost: int = 0
    late: int = 0
    doubled: int = 0
    complaints: list[str] = msgspec.field(default_factory=list)


class Report(msgspec.Struct, kw_only=True):
    """All that a run found. `broken` acknowledgements named what the journal does not hold."""

    seed: int
    rounds: int = 0
    results: int = 0
    lost: int = 0
    late: int = 0
    doubled: int = 0
    broken: int = 0
    elapsed_s: float = 0.0
    faults: list[Tally]
    evidence: list[str] = msgspec.field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Whether every result that had to be there was there in time, once, and all said what had to be said."""
        wrong = self.lost or self.late or self.doubled or self.broken
        return not (wrong or any(tally.complaints for tally in self.faults))


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `probe-lab`."""
    text = "break everything between a result and InfluxDB, at random moments, and look for what was lost or doubled"
    parser = commands.add_parser(
        "torture",
        help=text,
        description=text,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seed", type=int, help="what repeats the random choices, not the timing; shown where none is given"
    )
    parser.add_argument(
        "--rounds", type=_positive, default=len(FAULTS), metavar="N", help="faults to try (%(default)s)"
    )
    parser.add_argument("--fault", choices=list(FAULTS), action="append", help="only this one; may be given again")
    parser.add_argument("--json", action="store_true", help="one object, for machines")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if a result was lost, late or doubled, or a fault unseen"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the rounds and print what they found."""
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    try:
        report = torture(seed, options.rounds, options.fault or list(FAULTS))
    except (ShimError, ServerError, ProgramError) as error:
        print(error, file=sys.stderr)
        return 1
    print(msgspec.json.encode(report).decode() if options.json else _table(report))
    return 1 if options.check and not report.fine else 0


def torture(seed: int, rounds: int, names: list[str]) -> Report:
    """Try the named faults, each as often as the others; raise ShimError, ServerError or ProgramError."""
    began_s = time.monotonic()
    tallies = {name: Tally(name) for name in names}
    report = Report(seed=seed, faults=list(tallies.values()))
    _say(f"seed {seed}: {rounds} rounds on {PROBES} probes")
    chance = random.Random(seed)
    excused, counted = set[int](), set[int]()
    with Stand(chance, per_s=_PER_S) as stand:
        first = datetime.now(UTC)
        for name in _order(chance, names, rounds):
            complaints, verdict = _round(stand, name, excused, counted)
            tally = tallies[name]
            tally.rounds += 1
            tally.results += verdict.made
            tally.lost += len(verdict.lost)
            tally.late += len(verdict.late)
            tally.doubled += len(verdict.doubled)
            tally.complaints += complaints
            counted |= verdict.lost | verdict.doubled
            report.rounds += 1
            broken = verdict.broken - report.broken
            report.broken = verdict.broken
            report.evidence += verdict.evidence
            counts = {
                "lost": len(verdict.lost),
                "late": len(verdict.late),
                "doubled": len(verdict.doubled),
                "acknowledged in vain": broken,
            }
            trouble = "; ".join([*(f"{count} {what}" for what, count in counts.items() if count), *complaints])
            _say(f"{report.rounds:4}/{rounds} {name}: {verdict.made} results{', ' if trouble else ''}{trouble}")
            if trouble:
                _say("\n".join([*verdict.evidence, stand.last_words()]))
        _say("looking at everything once more")
        last = judge.look(stand, first, {}, excused, counted)
        for said in last.evidence:
            _say(said)
    report.results, report.broken = last.made, last.broken
    report.evidence += last.evidence
    report.lost = sum(tally.lost for tally in tallies.values()) + len(last.lost)
    report.late = sum(tally.late for tally in tallies.values()) + len(last.late)
    report.doubled = sum(tally.doubled for tally in tallies.values()) + len(last.doubled)
    report.elapsed_s = round(time.monotonic() - began_s, 1)
    return report


def _round(stand: Stand, name: str, excused: set[int], counted: set[int]) -> tuple[list[str], judge.Verdict]:
    """Let a fault strike under load, wait until all is quiet, ask what the collector says of the probes, and look."""
    case = Case(stand, excused)
    since = datetime.now(UTC) - _CLOCK_MAY_STEP
    first_tokens = {writer.name: judge.next_token(writer) for writer in (*stand.writers, *stand.gone)}
    stand.go_on()
    case.wait(0.3, 1.0)
    question = FAULTS[name](case)
    case.wait(0.2, 0.6)
    complaints = stand.settle() + stand.tracebacks()
    complaints += question() if question is not None else []
    complaints += known.mistaken(stand)
    excused |= case.excused
    return complaints, judge.look(stand, since, first_tokens, excused, counted)


def _order(chance: random.Random, names: list[str], rounds: int) -> list[str]:
    """Each fault as often as the others, in an order that is new every time through."""
    order: list[str] = []
    while len(order) < rounds:
        order += chance.sample(names, len(names))
    return order[:rounds]


def _table(report: Report) -> str:
    head = ["fault", "rounds", "results", "lost", "late", "doubled", "complaints"]
    rows: list[list[object]] = [
        [one.fault, one.rounds, one.results, one.lost, one.late, one.doubled, len(one.complaints)]
        for one in report.faults
    ]
    rows.append(
        [
            "all",
            report.rounds,
            report.results,
            report.lost,
            report.late,
            report.doubled,
            sum(len(f.complaints) for f in report.faults),
        ]
    )
    parts = [table.render(head, rows)]
    parts += [f"{one.fault}: {complaint}" for one in report.faults for complaint in one.complaints]
    parts.append(
        f"seed {report.seed}, {report.elapsed_s:.0f} s; numbers acknowledged and not in the journal: {report.broken}"
    )
    return "\n".join(parts)


def _positive(text: str) -> int:
    if not text.isdecimal() or (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
