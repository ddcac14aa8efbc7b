"""The guides: every reason is explained, every command and file that they name exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from collector.quarantine import Cause
from responder.lender import COUNTS
from wire.reasons import Condition, Invalid, Reason, Unmade

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "docs/install.md", ROOT / "docs/operations.md"]

# Programs that the guides call: ours, those of packages that the guides install, and those of every Debian.
OURS = {f"probe-{role}": role for role in ("agent", "collector", "responder")}
PACKAGED = {
    *("apt-get", "systemctl", "journalctl", "timedatectl", "runuser", "install", "udevadm", "timeout"),
    *("git", "openssl", "influx", "chronyc", "nmcli", "mmcli", "scp", "ufw", "nano", "ip"),
    *("cat", "cd", "chmod", "echo", "export", "mv", "rm", "sed"),
}


def commands(guide: Path) -> list[list[str]]:
    """Return every command line in the guide's bash blocks, without here-documents and scripts in quotes."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL):
        text = re.sub(r"<<'END'\n.*?\nEND\n", "\n", block.replace("\\\n", " "), flags=re.DOTALL)
        text = re.sub(r"'\n.*?\n'", "SCRIPT", text, flags=re.DOTALL)
        for line in re.sub(r"(?m)^(\w+=\$\([^)]*\)\s*)+", "", text).splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
            lexer.whitespace_split = True
            words: list[str] = []
            for token in [*lexer, ";"]:
                if token in {"|", "&&", ";"}:
                    found += [words] if words else []
                    words = []
                elif words or not re.match(r"\w+=", token):
                    words.append(token)
    assert len(found) > 10
    return found


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_command_is_known(guide: Path) -> None:
    unknown = {words[0] for words in commands(guide)} - PACKAGED - {*OURS}
    assert {name for name in unknown if not name.startswith("scripts/")} <= {"/opt/probefleet/bin/python"}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_file_of_the_repository_that_is_named_exists(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.])((?:scripts|config|systemd|docs)/[\w./-]*\w)", text))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (guide.parent / link).exists(), link


def _ours(guide: Path) -> list[list[str]]:
    """Return our programs' command lines, those in the text included."""
    in_text = re.findall(r"`((?:probe-(?:agent|collector|responder)) [a-z][^`]*)`", guide.read_text(encoding="utf-8"))
    found = [shlex.split(line) for line in in_text] + commands(guide)
    for words in found:
        if words[:1] == ["runuser"]:
            del words[: words.index("--") + 1]
    return [words for words in found if words[0] in OURS]


@pytest.mark.parametrize(
    "words",
    sorted({tuple(words) for guide in GUIDES for words in _ours(guide)}),
    ids=" ".join,
)
def test_our_programs_have_the_commands_and_options_that_the_guides_use(words: tuple[str, ...]) -> None:
    program, *arguments = words
    names = [word for word in arguments if re.fullmatch(r"[a-z][a-z-]*", word)]
    command = [
        sys.executable,
        "-m",
        f"{OURS[program]}.cli",
        *names[: 2 if names[0] in {"modem", "link"} else 1],
        "--help",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for option in (word for word in arguments if word.startswith("--")):
        assert option in done.stdout


def test_every_reason_is_explained_with_what_to_do() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE))
    assert set(rows) == {*Reason, *Invalid, *Cause, *Condition, *Unmade}
    assert all(len(remedy.strip()) > 5 for remedy in rows.values())


def test_every_count_of_the_responder_is_explained() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("## The test servers")[2]
    rows = re.findall(r"^\| (`[^|]+) \|", text.partition("\n## ")[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == {
        name.replace("_", " ") for name in COUNTS
    }


def test_jobs_that_the_guides_run_by_hand_are_in_the_example_configuration() -> None:
    import yaml  # noqa: PLC0415  # only here

    jobs = {job["name"] for job in yaml.safe_load((ROOT / "config/agent.yaml").read_text(encoding="utf-8"))["jobs"]}
    used = {words[2] for guide in GUIDES for words in _ours(guide) if words[1] == "once"}
    assert used <= jobs


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_address_and_the_name_that_the_tests_replace_are_the_ones_in_use(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    assert set(re.findall(r"\b(?:\d{1,3}\.){3}\d{1,3}\b", text)) <= {"203.0.113.10", "127.0.0.1"}
