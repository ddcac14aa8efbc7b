"""`probe-lab bench agent`: memory and CPU of an idle agent with three links, beside others of its kind.

Our agent runs in a namespace with three network interfaces, three simulated modems on serial ports and the default
schedule, connected over TLS to a real mosquitto, with its spool on disk: idle means between two tests, the looks at
the radio go on. Beside it, in the same run and with the same Python: Python alone, Python with paho connected over TLS,
and netrics.d and murakami as they come from PyPI, with no measurement due. All are compiled beforehand, as pip does;
ours has the environment that its systemd unit gives it.

Memory is the most that was resident, pages shared with others included, in MB of 10^6 bytes: the stricter reading of
the goal, as 32 MB of 2^20 would be 33.6. Beside it its share (PSS, proc(5)): shared pages divided by how many share
them. CPU is what the kernel counted, of the program and of the children that it has waited for.

This machine is no Pi: its seconds of CPU are multiplied by a factor, a guess for a Raspberry Pi 4: Python in an
emulated 64-bit Arm Debian, which has no Pi's excuse, is 4.6 times slower.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psutil

from base.table import render
from lab import netns
from lab.benches import Complaint, Judged, add_bench, say
from lab.idle import programs
from lab.idle.programs import InstallError
from lab.modem import SimulatedModem, cell_of
from lab.pki import PkiError, make_server_certificate
from lab.rundir import RunDir
from lab.servers import Mosquitto, ServerError

if TYPE_CHECKING:
    import argparse
    import subprocess
    from pathlib import Path

    from lab.benches import Parts

GOAL_MB: Final = 32.0
GOAL_CPU_PERCENT: Final = 1.0
GOAL_START_CPU_S: Final = 3.0
PI_FACTOR: Final = 5.0
QUOTED_MB: Final = {"netrics.d": 36.0, "murakami": 46.0}
"""What others measured on theirs; shown where the program itself cannot be had."""
_SETTLE_S: Final = 15.0
_FIRST_S: Final = 90.0
_LOOK_EVERY_S: Final = 0.5
_LINKS: Final = (("viettel", "quectel-ec25"), ("vinaphone", "simcom-sim7600"), ("mobifone", "huawei-me909"))
_PAHO_SCRIPT: Final = """\
import sys
from paho.mqtt import client
one = client.Client(client.CallbackAPIVersion.VERSION2, client_id="bare")
one.username_pw_set("bare", "secret")
one.tls_set(sys.argv[2])
one.connect("127.0.0.1", int(sys.argv[1]))
one.loop_forever()
"""

_LONGEST_S: Final = 86_400
_SLOWEST: Final = 1000

_EXAMPLES: Final = """examples:
  sudo probe-lab bench agent                  about two minutes; the first time, environments are made from PyPI
  sudo probe-lab bench agent --check          exit status 1 if a goal is missed
  sudo probe-lab bench agent --seconds 20 --no-peers --json
"""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One program. `quoted`: somebody else's figure, because the program could not be had here."""

    name: str
    rss_mb: float
    pss_mb: float | None = None
    cpu_percent: float | None = None
    pi_cpu_percent: float | None = None
    start_cpu_s: float | None = None
    pi_start_cpu_s: float | None = None
    quoted: str = ""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, ours first. `start_*`: CPU from the start to the first measurement's result."""

    seconds: float
    pi_factor: float
    programs: list[Cost]

    @property
    def missed(self) -> list[str]:
        """Name the goals that were missed."""
        ours = self.programs[0]
        cpu, start = ours.pi_cpu_percent or 0.0, ours.pi_start_cpu_s or 0.0
        goals = {
            f"{ours.rss_mb:.1f} MB, the goal is {GOAL_MB:.0f}": ours.rss_mb <= GOAL_MB,
            f"{cpu:.2f} % of a Pi's core, the goal is {GOAL_CPU_PERCENT:.0f}": cpu < GOAL_CPU_PERCENT,
            f"{start:.1f} s of a Pi's CPU to the first measurement, the goal is {GOAL_START_CPU_S:.0f}": (
                start <= GOAL_START_CPU_S
            ),
        }
        return [text for text, reached in goals.items() if not reached]


def add_parser(parts: Parts) -> None:
    """Add `agent` to the benches."""
    parser = add_bench(
        parts,
        "agent",
        run,
        summary="memory and CPU of an idle agent, beside others of its kind (needs root)",
        description="What an agent with three links costs while it waits, beside others of its kind.",
        examples=_EXAMPLES,
        check="if a goal was missed",
        failures=(netns.NetworkError, ServerError, PkiError, InstallError, OSError, AgentError),
    )
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="of watching (default %(default)s)")
    parser.add_argument(
        "--pi-factor",
        type=float,
        default=PI_FACTOR,
        metavar="N",
        help="how many times slower a Pi's core is than this one (default %(default)s)",
    )
    parser.add_argument("--no-peers", action="store_true", help="leave netrics.d and murakami out")


def run(arguments: argparse.Namespace) -> Judged:
    """Measure and judge; raise Complaint, or what `measure` raises."""
    if not (0 < arguments.seconds <= _LONGEST_S and 0 < arguments.pi_factor <= _SLOWEST):
        raise Complaint(f"--seconds is above 0, at most {_LONGEST_S}; --pi-factor at most {_SLOWEST}", status=2)
    found = measure(arguments.seconds, arguments.pi_factor, peers=not arguments.no_peers)
    return Judged(msgspec.to_builtins(found) | {"missed": found.missed}, _text(found), found.missed)


class AgentError(Exception):
    """Our agent did not do what it is watched for; the text ends with its log."""


class Watched:
    """A program in the namespace, and what it has used."""

    def __init__(self, name: str, process: subprocess.Popen[Any]) -> None:
        self.name = name
        self.rss_bytes = 0
        self.start_cpu_s: float | None = None
        self._process = psutil.Process(process.pid)
        self._popen = process
        self._begun = (0.0, 0.0)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen.poll() is None

    def cpu_s(self) -> float:
        """Return the CPU it has used, all threads, and its children that have ended."""
        times = self._process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    def begin(self) -> None:
        """Watch from now on."""
        self._begun = (time.monotonic(), self.cpu_s())
        self.look()

    def look(self) -> None:
        """Remember the most memory seen."""
        self.rss_bytes = max(self.rss_bytes, self._process.memory_info().rss)

    def cost(self, pi_factor: float) -> Cost:
        """Say what it came to."""
        percent = (self.cpu_s() - self._begun[1]) / (time.monotonic() - self._begun[0]) * 100
        start_s = self.start_cpu_s
        return Cost(
            name=self.name,
            rss_mb=round(self.rss_bytes / 1e6, 1),
            pss_mb=round(self._process.memory_full_info().pss / 1e6, 1),
            cpu_percent=round(percent, 3),
            pi_cpu_percent=round(percent * pi_factor, 2),
            start_cpu_s=round(start_s, 2) if start_s is not None else None,
            pi_start_cpu_s=round(start_s * pi_factor, 2) if start_s is not None else None,
        )


def measure(seconds: float, pi_factor: float, *, peers: bool) -> Found:
    """Run all at once and watch them; raise NetworkError, ServerError, PkiError, InstallError or AgentError."""
    python = programs.environment("agent", programs.agent_requirements(), say) / "python"
    with netns.Run() as network, RunDir() as place, contextlib.ExitStack() as closing:
        probe, core = network.namespace("probe"), network.namespace("core")
        for number in range(len(_LINKS)):
            netns.veth(probe, f"wwan{number}", core, f"far{number}")
            probe.ip(f"address add 10.99.{number}.2/24 dev wwan{number}")
        files = make_server_certificate(place.folder("pki"), ["127.0.0.1"])
        users = {"lab-probe": "secret", "bare": "secret"}
        prefix = ("ip", "netns", "exec", probe.name)
        broker = closing.enter_context(Mosquitto(place.folder("broker"), users=users, tls=files, prefix=prefix))
        modems = {
            name: closing.enter_context(
                SimulatedModem(model, cell_of(name), link=place.path / f"modem-{name}", seed=number)
            )
            for number, (name, model) in enumerate(_LINKS)
        }
        folder = place.folder("agent")
        code = programs.copy_of_ours(place.folder("code"), python)
        config = _configure(folder, broker.port, files.ca_file, {name: modem.port for name, modem in modems.items()})
        say("our agent starts ...")
        ours = _start(
            probe,
            "probe-agent, three links",
            [python, "-P", "-m", "agent.cli", "run", "--config", config],
            folder,
            PYTHONPATH=str(code),
            **programs.unit_environment(),
        )
        watched = [
            ours,
            _start(probe, "Python alone", [python, "-c", "import time; time.sleep(1e6)"], place.folder("bare")),
            _start(
                probe,
                "Python with paho over TLS",
                [python, "-c", _PAHO_SCRIPT, broker.port, files.ca_file],
                place.folder("paho"),
            ),
        ]
        ours.start_cpu_s = _first_measurement(ours, folder / "log")
        quoted: list[Cost] = []
        if peers:
            for name, start in (("netrics.d", _netrics), ("murakami", _murakami)):
                try:
                    watched.append(start(probe, place.folder(name)))
                except InstallError as error:
                    quoted.append(Cost(name=name, rss_mb=QUOTED_MB[name], quoted=str(error)))
        rest_s = min(_SETTLE_S, seconds)
        say(f"watching for {seconds:.0f} s after {rest_s:.0f} s of rest ...")
        time.sleep(rest_s)
        for one in watched:
            if not one.alive:
                raise AgentError(f"{one.name} has ended")
            one.begin()
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            time.sleep(_LOOK_EVERY_S)
            for one in watched:
                one.look()
        costs = [one.cost(pi_factor) for one in watched]
    return Found(seconds=seconds, pi_factor=pi_factor, programs=costs + quoted)


def _start(place: netns.Namespace, name: str, command: list[object], folder: Path, **more: str) -> Watched:
    with (folder / "log").open("ab") as log:
        words = [str(word) for word in command]
        return Watched(name, place.popen(words, stdout=log, stderr=log, cwd=folder, env=programs.clean(**more)))


def _configure(folder: Path, port: int, ca_file: Path, modems: dict[str, Path]) -> Path:
    """Write agent.yaml (JSON is YAML): the default schedule on three links."""
    credentials = folder / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text("lab-probe:secret\n")
    document = {
        "probe_id": "lab-probe",
        "site": {"id": "lab", "name": "Lab", "commune": "03408", "commune_scheme": "GSO-2025-07-01"},
        "data_dir": str(folder / "data"),
        "broker": {
            "host": "127.0.0.1",
            "port": port,
            "credentials_file": str(credentials),
            "tls": {"ca_file": str(ca_file)},
        },
        "links": [
            {"name": name, "interface": f"wwan{number}", "modem": str(modems[name])}
            for number, (name, _) in enumerate(_LINKS)
        ],
        "jobs": [
            {"name": "throughput-short", "measurement": "throughput", "runs_per_day": 16},
            {"name": "latency", "measurement": "latency", "every_s": 900},
            {"name": "radio", "measurement": "radio", "every_s": 60},
        ],
    }
    config = folder / "agent.yaml"
    config.write_text(json.dumps(document))
    return config


def _first_measurement(ours: Watched, log: Path) -> float:
    """Wait for the first look at a radio; return the CPU used until then."""
    deadline_s = time.monotonic() + _FIRST_S
    while "radio on " not in (said := log.read_text(errors="replace")):
        if time.monotonic() > deadline_s or not ours.alive:
            raise AgentError(f"the agent measured nothing:\n{said[-2000:]}")
        ours.look()
        time.sleep(0.05)
    return ours.cpu_s()


def _netrics(place: netns.Namespace, folder: Path) -> Watched:
    binaries = programs.environment("netrics", programs.NETRICS, say)
    command: list[object] = [binaries / "python", binaries / "netrics.d", "--foreground", "--no-banner"]
    return _start(place, "netrics.d", command, folder, HOME=str(folder))


def _murakami(place: netns.Namespace, folder: Path) -> Watched:
    binaries = programs.environment("murakami", programs.MURAKAMI, say)
    (folder / "murakami.toml").write_text(
        "[settings]\ntests_per_day = 2\nimmediate = false\nwebthings = false\n"
        f'[exporters.local]\ntype = "local"\nenabled = true\npath = "{folder}"\n'
    )
    command: list[object] = [binaries / "python", binaries / "murakami", "-c", "murakami.toml", "-d", "state.json"]
    return _start(place, "murakami", command, folder, HOME=str(folder))


def _text(found: Found) -> str:
    pi_cpu = f"Pi CPU % (x {found.pi_factor:g})"
    head = ("idle", "MB", "its share, MB", "CPU %", pi_cpu, "CPU s to first result", "Pi CPU s")
    rows = [
        (one.name, one.rss_mb, one.pss_mb, one.cpu_percent, one.pi_cpu_percent, one.start_cpu_s, one.pi_start_cpu_s)
        for one in found.programs
    ]
    quoted = [one for one in found.programs if one.quoted]
    notes = [f"{one.name}: not measured here ({one.quoted}); its figure is quoted" for one in quoted]
    return "\n".join([render(head, rows), *notes])
