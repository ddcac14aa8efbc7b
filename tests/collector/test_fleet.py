import sys
from pathlib import Path

import msgspec
import pytest

from agent.settings import Share
from base.configfile import ConfigError
from base.share import MAX_PLACES, MAX_ROOM
from collector import cli, fleet
from wire import topics

ROOT = Path(__file__).parents[2]

SITES = """\
collectors: [collector-north, collector-south]
sites:
  - {id: tan-phong, group: north, probes: [lc-1, lc-2]}
  - {id: sin-ho, group: south, probes: [lc-3]}
  - {id: muong-te, probes: [lc-4]}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "sites.yaml"
    path.write_text(text)
    return path


def rights(text: str, user: str) -> set[str]:
    """Read the lines of one user: `read TOPIC`, `write TOPIC`."""
    block = next(block for block in text.split("\n\n") if block.startswith(f"user {user}\n"))
    lines = [line.removeprefix("topic ").strip() for line in block.splitlines()[1:]]
    both = {f"{way} {line.removeprefix('readwrite ')}" for line in lines for way in ("read", "write")}
    return {line for line in lines if not line.startswith("readwrite ")} | {
        line for line in both if f"readwrite {line.partition(' ')[2]}" in lines
    }


def test_the_shipped_example_loads() -> None:
    assert fleet.load(ROOT / "config/sites.yaml").probes() == ("lc-tan-phong-1",)


def test_probes_are_those_of_the_groups_asked_for(tmp_path: Path) -> None:
    found = fleet.load(written(tmp_path, SITES))
    assert found.probes() == ("lc-1", "lc-2", "lc-3", "lc-4")
    assert found.probes(["north"]) == ("lc-1", "lc-2")
    assert found.unknown(["north", "west"]) == ("west",)


def test_the_list_gives_each_user_what_the_shipped_patterns_give(tmp_path: Path) -> None:
    text = fleet.acl(fleet.load(written(tmp_path, SITES)))
    shipped = (ROOT / "config/mosquitto/acl").read_text()
    patterns = {line.removeprefix("pattern ") for line in shipped.splitlines() if line.startswith("pattern ")}
    assert {right.replace("/lc-1/", "/%u/") for right in rights(text, "lc-1")} == patterns
    assert rights(text, "collector-north") == rights(text, "collector-south") == rights(shipped, "collector")
    assert rights(text, "responder") == rights(shipped, "responder")


def test_who_is_not_in_the_list_has_no_line_in_it(tmp_path: Path) -> None:
    text = fleet.acl(fleet.load(written(tmp_path, SITES.replace("lc-2", "lc-9"))))
    assert "lc-2" not in text
    assert topics.topic("lc-9", topics.RESULT) in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SITES.replace("lc-3", "lc-1"), "sites[1].probes[0]"),
        (SITES.replace("lc-3", "collector-north"), "stands twice"),
        (SITES.replace("lc-3", "LC 3"), "sites.yaml:4"),
        (SITES.replace("sites:", "site:"), "site"),
        ("", "sites.yaml"),
    ],
)
def test_a_mistake_in_the_list_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        fleet.load(written(tmp_path, text))
    assert said in str(refusal.value)


def test_every_link_of_the_list_has_a_place_of_its_own(tmp_path: Path) -> None:
    listed = fleet.load(written(tmp_path, SITES))
    found = fleet.places(listed, links_each=2, room=9)
    assert [place.place for place in found] == list(range(2 * len(listed.probes())))
    assert {(place.of, place.room) for place in found} == {(len(found), 9)}
    assert [place[:3] for place in fleet.places(listed, links_each=2, room=9, of=400)] == [p[:3] for p in found]
    with pytest.raises(ValueError, match="need"):
        fleet.places(listed, links_each=2, room=9, of=1)


def test_a_share_that_agent_yaml_would_refuse_is_not_written(tmp_path: Path) -> None:
    listed = fleet.load(written(tmp_path, SITES))
    most = {"place": MAX_PLACES - 1, "of": MAX_PLACES, "room": MAX_ROOM}
    msgspec.convert(most, Share)
    assert fleet.places(listed, links_each=1, room=MAX_ROOM, of=MAX_PLACES)[0].room == MAX_ROOM
    for room, of in ((MAX_ROOM + 1, 4), (1, MAX_PLACES + 1)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"place": 0, "of": of, "room": room}, Share)
        with pytest.raises(ValueError, match=r"agent\.yaml takes at most 1000"):
            fleet.places(listed, links_each=1, room=room, of=of)


@pytest.mark.parametrize("wrong", [["--room", "99999"], ["--room", "nine"], ["--room", "9", "--links", "0"]])
def test_numbers_that_make_no_share_are_wrong_usage(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["probe-collector", "places", "--sites", str(written(tmp_path, SITES)), *wrong])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert not said.out
    assert "_positive" not in said.err


def test_the_command_writes_what_belongs_into_agent_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["probe-collector", "places", "--sites", str(written(tmp_path, SITES)), "--room", "9"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "share: {place: 0, of: " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "--of", "1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "places" in capsys.readouterr().err
