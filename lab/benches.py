"""What every bench does alike: a table or one JSON object, the judgement of `--check`, the exit status.

A bench is a function from the parsed arguments to an Judged. The exit status is 0; 1 if nothing could be measured, or
if with `--check` a goal was missed; 2 for wrong usage or configuration.
"""
# ruff: noqa: T201  # what a bench prints is its result

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from base.configfile import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Parts: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  # argparse names it no other way
"""Where a bench is added."""


class Judged(NamedTuple):
    """What was found: an object for machines, a text for people, the goals that were missed."""

    document: object
    text: str
    missed: Sequence[str] = ()


class Complaint(Exception):
    """Why there is no answer; `status` 2 says that the arguments are wrong."""

    def __init__(self, text: str, *, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def add_bench(
    parts: Parts,
    name: str,
    run: Callable[[argparse.Namespace], Judged],
    *,
    summary: str,
    description: str,
    examples: str,
    check: str,
    failures: tuple[type[Exception], ...] = (),
) -> argparse.ArgumentParser:
    """Add a bench, with `--json` and `--check` (`check` says when it fails); `failures` mean that it did not work.

    The parser's `run` takes the parsed arguments and returns the exit status.
    """
    parser = parts.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--check", action="store_true", help=f"exit status 1 {check}")

    def judged(arguments: argparse.Namespace) -> int:
        try:
            answer = run(arguments)
        except Complaint as error:
            return complain(str(error), error.status)
        except ConfigError as error:
            return complain(str(error), 2)
        except failures as error:
            return complain(str(error))
        print(msgspec.json.encode(answer.document).decode() if arguments.json else answer.text)
        return complain("; ".join(answer.missed)) if arguments.check and answer.missed else 0

    def complain(text: str, status: int = 1) -> int:
        print(f"{parser.prog}: {text}", file=sys.stderr)
        return status

    parser.set_defaults(run=judged)
    return parser


def say(what: str, *, again: bool = False) -> None:
    """Tell whoever waits how far it is; `again`: in the same line as before, where somebody watches."""
    watched = sys.stderr.isatty()
    if watched or not again:
        print(f"{what:60}" if watched else what, end="\r" if again else "\n", file=sys.stderr, flush=True)
