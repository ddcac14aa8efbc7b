"""A child's answer, its exit status, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from base.apart import answer_of

SIZE = 1_000_000  # more than a pipe holds


def test_the_answer_comes_from_a_process_of_its_own() -> None:
    assert answer_of(lambda: str(os.getpid()).encode()) != str(os.getpid()).encode()
    assert answer_of(lambda: bytes(SIZE)) == bytes(SIZE)


def test_what_the_child_loads_stays_with_it() -> None:
    code = (
        "import sys\n"
        "from base.apart import answer_of\n"
        "print(answer_of(lambda: __import__('yaml').__name__.encode()), 'yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "b'yaml' False\n"


@pytest.mark.parametrize(
    ("ending", "status", "told"),
    [
        ("sys.exit(2)", 2, ""),
        ("sys.exit(0)", 0, ""),
        ("os.kill(os.getpid(), 15)", 143, ""),
        ("sys.exit('why')", 1, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("signal.raise_signal(signal.SIGINT)", 130, ""),
    ],
)
def test_a_child_that_ends_without_an_answer_is_the_end(ending: str, status: int, told: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from base.apart import answer_of\n"
        f"def work():\n    print('said once', flush=True)\n    {ending}\n    return b'late'\n"
        "print('before')\n"
        "answer_of(work)\n"
        "print('not reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout == "before\nsaid once\n"
    assert told in done.stderr
    assert bool(told) is bool(done.stderr)
