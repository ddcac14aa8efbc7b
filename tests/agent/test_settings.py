"""agent.yaml: the commented example loads, and every mistake in tests/mistakes/agent is named."""

import re
from pathlib import Path

import pytest

from agent import settings
from agent.measurements.ping import PingOptions
from agent.settings import PingJob, ThroughputJob
from base.configfile import MAX_FILE_BYTES, ConfigError

ROOT = Path(__file__).parents[2]
MISTAKES = sorted((ROOT / "tests/mistakes/agent").glob("*.yaml"))


def test_the_commented_example_loads() -> None:
    loaded = settings.load(ROOT / "config/agent.yaml")
    assert loaded.links_of(loaded.job("latency")) == loaded.links
    short = loaded.job("throughput-short")
    assert isinstance(short, ThroughputJob)
    assert short.options.streams == 4


def test_the_jobs_that_are_commented_out_load_too(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    example = (ROOT / "config/agent.yaml").read_text()
    path.write_text(re.sub(r"(?m)^  # (- name:|  )", r"  \1", example))
    loaded = settings.load(path)
    assert [job.name for job in loaded.jobs][-3:] == ["pings", "names", "pages"]
    pings = loaded.job("pings")
    assert isinstance(pings, PingJob)
    assert pings.options == PingOptions(), "what is commented out shows its default"


def test_settings_reach_another_process_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    example = (ROOT / "config/agent.yaml").read_text()
    path.write_text(re.sub(r"(?m)^  # (- name:|  )", r"  \1", example))
    for loaded in (settings.load(ROOT / "config/agent.yaml"), settings.load(path)):
        assert settings.unpack(settings.pack(loaded)) == loaded


@pytest.mark.parametrize("path", MISTAKES, ids=lambda path: path.stem)
def test_a_mistake_is_named(path: Path) -> None:
    wanted = [
        line.removeprefix("# refused: ") for line in path.read_text().splitlines() if line.startswith("# refused")
    ]
    with pytest.raises(ConfigError) as refusal:
        settings.load(path)
    assert str(refusal.value).splitlines() == [f"{path}:{line}".replace("::", ":") for line in wanted]


def test_a_config_with_three_mistakes_lists_three(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    example = (ROOT / "config/agent.yaml").read_text()
    path.write_text(
        example.replace("probe_id: lc-", "probe_id: LC-")
        .replace("every_s: 900", "every: 900")
        .replace("streams: 4", "streams: four")
    )
    with pytest.raises(ConfigError) as refusal:
        settings.load(path)
    text = str(refusal.value)
    assert "probe_id" in text
    assert "jobs[2].every: unknown key; did you mean 'every_s'?" in text
    assert "jobs[0].options.streams: expected `int`" in text


def test_no_config_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; name the file with --config"):
        settings.load(tmp_path / "agent.yaml")


def test_a_file_that_is_far_too_large_is_not_even_parsed(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(b"a" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        settings.load(path)


def test_depth_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="nested more than 20 levels deep"):
        settings.load(path)
