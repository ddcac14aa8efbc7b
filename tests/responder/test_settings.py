"""responder.yaml: the example loads, and every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from base.configfile import ConfigError
from responder import cli, settings

EXAMPLE = Path(__file__).parents[2] / "config" / "responder.yaml"


def test_the_example_loads_and_shows_the_defaults() -> None:
    shown = settings.load(EXAMPLE)
    needed = {key: yaml.safe_load(EXAMPLE.read_text())[key] for key in ("responder_id", "advertise_host")}
    defaults = settings.Settings(broker=shown.broker, ports=shown.ports, **needed)
    assert shown == defaults
    assert list(shown.ports.all) == list(range(5201, 5219))


@pytest.mark.parametrize(
    ("changes", "complaints"),
    [
        ({"ports": {"first": 5210, "last": 5201}}, ["ports.last: 5201 comes before ports.first 5210"]),
        ({"ports": {"first": 5201, "last": 5201}}, ["ports.last: a lease takes up to 2 ports (max_transfers)"]),
        ({"ports": {"first": 1, "last": 60000}}, ["at most 1000 can be lent"]),
        ({"ports": {"first": 0, "last": "x"}}, ["ports.first: expected", "ports.last: expected"]),
        ({"max_length_s": 9}, ["max_length_s"]),
        ({"bind_adress": "::1"}, ["did you mean 'bind_address'?"]),
        ({"advertise_host": "-R"}, ["advertise_host"]),
        ({"irtt": 2112, "responder_id": "Big", "ports": None}, ["irtt", "responder_id", "ports"]),
    ],
    ids=str,
)
def test_a_mistake_is_named(tmp_path: Path, changes: dict[str, object], complaints: list[str]) -> None:
    config = tmp_path / "responder.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(EXAMPLE.read_text()) | changes))
    with pytest.raises(ConfigError) as refusal:
        settings.load(config)
    assert len(refusal.value.mistakes) == len(complaints), refusal.value
    assert not [complaint for complaint in complaints if complaint not in str(refusal.value)]


def test_the_command_says_what_is_wrong_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "responder.yaml"
    config.write_text("responder_id: x\n")
    assert cli.run(["check-config", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"{config}:1: broker: missing" in said
    assert "Traceback" not in said


def test_the_command_says_which_file_it_lacks_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = EXAMPLE.read_text().replace("/etc/probefleet/responder.credentials", str(tmp_path / "nothing"))
    config = tmp_path / "responder.yaml"
    config.write_text(text)
    assert cli.run(["check-config", "--config", str(config)]) == 1
    said = capsys.readouterr()
    assert "hcm-1 lends 203.0.113.10:5201-5218" in said.out
    assert "write one line 'user:password' there" in said.err
    assert cli.run(["run", "--config", str(config)]) == 1


def test_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["version"]) == 0
    assert capsys.readouterr().out.startswith("probe-responder ")
