import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from lab.method import bench
from lab.method.cells import MEANS_MBPS, Scaling, made_up, recorded


def trace(folder: Path, lines: Iterable[int]) -> Path:
    (folder / "some.down").write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    return folder


@pytest.mark.parametrize("scaling", list(Scaling))
def test_a_trace_is_brought_to_every_mean(tmp_path: Path, scaling: Scaling) -> None:
    cells = list(recorded(trace(tmp_path, range(0, 8000, 3)), scaling))

    assert [round(cell.mean_mbps / 0.9653, 0) for cell in cells] == list(MEANS_MBPS)


def test_height_keeps_the_pace_of_a_trace_and_time_quickens_it(tmp_path: Path) -> None:
    folder = trace(tmp_path, range(0, 8000, 3))

    assert {len(cell.step_bytes) for cell in recorded(folder, Scaling.HEIGHT)} == {799}
    assert len({len(cell.step_bytes) for cell in recorded(folder, Scaling.TIME)}) == len(MEANS_MBPS)


def test_the_made_up_cells_have_the_mean_they_claim() -> None:
    assert [round(cell.mean_mbps / 0.9653) for cell in made_up(1)] == [45, 45, 45, 45]


def test_the_goal_needs_a_narrow_interval_and_an_honest_mean() -> None:
    def summary(policy: str, ratio: float, bias_percent: float) -> bench.Summary:
        return bench.Summary(
            policy=policy,
            test_mb=1,
            tests_a_day=1,
            bias_percent=bias_percent,
            rms_error_percent=1,
            half_width_percent=1,
            ratio=ratio,
            worst_ratio=ratio,
        )

    baseline = summary(bench.BASELINE.name, 1.0, -3.0)
    assert bench.goal_met([baseline, summary(bench.SHORT.name, 0.65, -3.0)])
    assert not bench.goal_met([baseline, summary(bench.SHORT.name, 0.66, -3.0)])
    assert not bench.goal_met([baseline, summary(bench.SHORT.name, 0.5, -3.1)])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lab.cli", "bench", "method", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_bench_prints_one_object_and_keeps_its_goal(tmp_path: Path) -> None:
    folder = trace(tmp_path, [*range(0, 20_000, 1), *range(20_000, 60_000, 9)])

    done = run("--traces", str(folder), "--tests", "200", "--json", "--check")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["goal_met"] is True
    assert {row["cell"] for row in report["cells"]} >= {"some.down at 20", "ramping 9-81 in 60 s"}


def test_the_table_names_every_policy_and_what_does_not_vary(tmp_path: Path) -> None:
    done = run("--traces", str(trace(tmp_path, range(1, 5000, 2))), "--tests", "20")

    assert done.returncode == 0, done.stderr
    assert all(policy.name in done.stdout for policy in bench.POLICIES)
    assert "wakes in 0.8 s" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--traces", "/nowhere"], "cannot be read"),
        (["--tests", "1"], "--tests 10 to 100000"),
        (["--slow-cv", "9"], "--slow-cv 0 to 2"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = run(*arguments)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_no_traces_and_a_file_that_is_none_are_named(tmp_path: Path) -> None:
    assert "holds no traces" in run("--traces", str(tmp_path)).stderr
    (tmp_path / "letters").write_text("abc\n", encoding="ascii")
    assert "letters, line 1" in run("--traces", str(tmp_path)).stderr
