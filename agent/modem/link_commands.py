"""`probe-agent modem up | dial | recover | ignore-rule`: what a technician does to a link by hand."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

import msgspec

from agent.clock import SystemClock
from agent.measurements.base import MeasurementFailed
from agent.modem.bringup import Bringer, Tools
from agent.modem.diagnose import diagnose
from agent.modem.discovery import find_ports
from agent.modem.errors import ModemError
from agent.modem.given_port import GivenPort
from agent.modem.hands import Hands
from agent.modem.ladder import MEMORY_FILE, Ladder
from agent.modem.owner import ignore_rule
from agent.modem.ppp import dial
from agent.modem.session import ModemSession
from agent.modems import SerialModems
from agent.namespace import inside
from agent.service import Service, running_agent, sole_use
from agent.settings import load
from agent.upkeep import Upkeep, other_uplinks
from wire.reasons import Condition

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from agent.modem.bringup import Step
    from agent.settings import Link, Settings

_DIAL_WITHIN_S: Final = 240.0
_HELD_LOOK_S: Final = 1.0


def run_up(arguments: argparse.Namespace) -> int:
    """Bring links up. 0: all are up (a dry run: nothing stands in the way); 1: one is not; 2: wrong usage."""
    settings = load(arguments.config)
    links = _chosen(settings, arguments.link)
    if not links:
        return 2
    bringer = Bringer(Tools(modems=SerialModems(), data_dir=settings.data_dir))
    with contextlib.nullcontext() if arguments.dry_run else sole_use(settings.data_dir):
        try:
            good = [_up(bringer, link, arguments) for link in links]
            _hold(bringer, links)
        finally:
            bringer.close()
    return 0 if all(good) else 1


def _up(bringer: Bringer, link: Link, arguments: argparse.Namespace) -> bool:
    try:
        with inside(link.namespace):
            return bringer.up(link, dry_run=arguments.dry_run, tell=functools.partial(_tell, link, arguments.json))
    except MeasurementFailed as failure:
        print(f"{link.name}: {failure.detail}", file=sys.stderr)  # noqa: T201
        return False


def _tell(link: Link, as_json: bool, step: Step) -> None:  # noqa: FBT001 - bound by functools.partial
    if as_json:
        print(json.dumps({"link": link.name, **msgspec.to_builtins(step)}, ensure_ascii=False), flush=True)  # noqa: T201
    else:
        print(f"{link.name:<12} {step.name:<8} {step.state:<6} {step.told}", flush=True)  # noqa: T201


def _hold(bringer: Bringer, links: Sequence[Link]) -> None:
    """Hold PPP calls until Ctrl-C, SIGTERM, or the end of one."""
    names = [link.name for link in links if bringer.calls(link)]
    if not names:
        return
    print(f"{', '.join(names)}: the call is held until Ctrl-C", file=sys.stderr)  # noqa: T201
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    while not told.wait(_HELD_LOOK_S):
        for link in links:
            if bringer.ended(link):
                print(f"{link.name}: the call has ended", file=sys.stderr)  # noqa: T201
                return


def run_recover(arguments: argparse.Namespace) -> int:
    """Explain what the ladder would do, or do at most one rung per link. 0: the links work; 1: one does not."""
    settings = load(arguments.config)
    links = _chosen(settings, arguments.link)
    if not links:
        return 2
    modems = SerialModems()
    if arguments.dry_run:
        return _explain(settings, links, modems)
    clock = SystemClock()
    with sole_use(settings.data_dir):
        service = Service(settings, clock, modems)
        try:
            upkeep = Upkeep(settings, clock, modems, service.runner)
            states = [upkeep.ladder.at_once(link) for link in links]
            upkeep.close()
        finally:
            service.spool.close()
    for link, state in zip(links, states, strict=True):
        print(f"{link.name}: {state.condition}: {state.detail}")  # noqa: T201
    print("what was done waits in the spool, and goes to the collector when the agent runs", file=sys.stderr)  # noqa: T201
    return 0 if all(state.condition is Condition.HEALTHY for state in states) else 1


def _explain(settings: Settings, links: Sequence[Link], modems: SerialModems) -> int:
    ladder = Ladder(
        settings.data_dir / MEMORY_FILE,
        SystemClock(),
        Hands(modems),
        lambda link: diagnose(link, modems, others=other_uplinks(link.interface)),
        lambda _: None,
    )
    for link in links:
        print(f"{link.name}: looking ...", file=sys.stderr)  # noqa: T201
        print(ladder.explain(link))  # noqa: T201
    if (running := running_agent(settings.data_dir)) is not None:
        print(f"the agent runs (process {running}): it does this by itself, between its tests", file=sys.stderr)  # noqa: T201
    return 0


def run_ignore_rule(arguments: argparse.Namespace) -> int:
    """Print a udev rule. 0: printed; 1: no modem to write it for, or several."""
    found = [m for m in find_ports(arguments.sys_root) if arguments.usb_path in {None, m.usb_path}]
    kinds = {(modem.vendor_id, modem.product_id): modem for modem in found}
    if len(kinds) != 1:
        listed = ", ".join(f"{modem.usb_path} {modem.device}" for modem in found) or "none"
        print(f"modems found: {listed}; name one with --usb-path", file=sys.stderr)  # noqa: T201
        return 1
    (modem,) = kinds.values()
    print(ignore_rule(modem, only_port=arguments.only_interface))  # noqa: T201
    return 0


def run_dial(arguments: argparse.Namespace) -> int:
    """Dial on standard input. 0: connected; 1: not, and standard error says why (pppd puts that into its log)."""
    try:
        session = ModemSession(GivenPort.NAME, deadline_s=_DIAL_WITHIN_S, opener=lambda _: GivenPort(0))
        with session:
            print(f"dialled: {dial(session, arguments.cid)}", file=sys.stderr)  # noqa: T201
    except ModemError as error:
        print(f"probe-agent: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _chosen(settings: Settings, name: str | None) -> list[Link]:
    """Return the links that are meant; none, and a complaint, if there is no such link."""
    links = [link for link in settings.links if name in {None, link.name}]
    if not links:
        known = ", ".join(link.name for link in settings.links)
        print(f"no link is named '{name}'; links: {known}", file=sys.stderr)  # noqa: T201
    return links
