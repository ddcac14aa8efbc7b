"""`probe-agent link setup | teardown`: the links' routing tables, explained, made, and taken away again."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from agent.link_files import Manager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.link_files import File
    from agent.router import Plan

_EXAMPLES: Final = """\
examples:
  probe-agent link setup --dry-run                     what would be done, each step with its reason
  probe-agent link setup                               give each link its routing table, now (root)
  probe-agent link setup --for networkmanager          and have NetworkManager keep it so, also after a reboot
  probe-agent link setup --for networkd --dry-run      the files for systemd-networkd, printed
  probe-agent link teardown                            remove all of it
"""


def add_parser(commands: Any, configured: argparse.ArgumentParser) -> None:  # noqa: ANN401  # argparse keeps the type to itself
    """Add `link` to the program's commands."""
    link = commands.add_parser(
        "link",
        help="a routing table for each link: set up, take away",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = link.add_subparsers(required=True, metavar="COMMAND")
    for name, told, handler in (
        ("setup", "give each link a routing table of its own, so that its packets leave by it or not at all", _setup),
        ("teardown", "remove every rule, route and file that setup has made", _teardown),
    ):
        verb = verbs.add_parser(name, parents=[configured], help=told, description=told)
        verb.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
        verb.add_argument("--link", metavar="LINK", help="only this link")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(handler=handler)
        if name == "setup":
            verb.add_argument(
                "--for",
                dest="manager",
                choices=get_args(Manager),
                default="kernel",
                help="who looks after the network: with the last two, files that keep it so are written as well",
            )


def _setup(options: argparse.Namespace) -> int:
    """0: as it should be now (a dry run: said); 1: it could not be made so; 2: no such link."""
    from agent import link_files, router  # noqa: PLC0415  # --help starts quickly without them
    from agent.settings import load  # noqa: PLC0415  # as above

    settings = load(options.config)
    if not _known(options.link, [link.name for link in settings.links]):
        return 2
    tables = {link.name: router.table_of(settings.links, link.name) for link in settings.links}
    wanted_files = link_files.files(
        options.manager,
        [link for link in settings.links if options.link in {None, link.name}],
        tables,
        Path(sys.argv[0]).resolve(),
        options.config.resolve(),
    )
    return _carry_out(options, lambda: router.plan(settings.links, only=options.link), wanted_files)


def _teardown(options: argparse.Namespace) -> int:
    """0: nothing of ours is left; 1: something could not be removed; 2: no such link."""
    from agent import link_files, router  # noqa: PLC0415  # as above
    from agent.settings import load  # noqa: PLC0415  # as above

    settings = load(options.config)
    if not _known(options.link, [link.name for link in settings.links]):
        return 2
    status = _carry_out(options, lambda: router.removal(settings.links, only=options.link), [])
    if options.link is None and not options.dry_run:
        try:
            for path in link_files.remove():
                print(f"removed {path}", file=sys.stderr)
        except OSError as error:
            print(f"{error.filename}: {error.strerror}; this needs root", file=sys.stderr)
            return 1
    return status


def _carry_out(options: argparse.Namespace, look: Any, files: Sequence[File]) -> int:  # noqa: ANN401  # a callable
    from agent import link_files, router  # noqa: PLC0415  # as above
    from agent.measurements.base import MeasurementFailed  # noqa: PLC0415  # as above

    try:
        plans: list[Plan] = look()
        _tell(options, plans, files)
        if options.dry_run:
            return 0
        if any(plan.changes or plan.settings for plan in plans) and not router.may_change():
            print("only root (CAP_NET_ADMIN) may change rules and routes", file=sys.stderr)
            return 1
        for plan in plans:
            router.apply(plan)
        for path in link_files.write(files):
            print(f"written: {path}", file=sys.stderr)
    except router.RoutesError as error:
        print(error, file=sys.stderr)
        return 1
    except MeasurementFailed as failure:
        print(failure.detail, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; this needs root", file=sys.stderr)
        return 1
    return 0


def _tell(options: argparse.Namespace, plans: Sequence[Plan], files: Sequence[File]) -> None:
    steps = [
        {
            "namespace": plan.namespace,
            "command": _command(plan, f"-{change.family} {change.command}"),
            "why": change.why,
        }
        for plan in plans
        for change in plan.changes
    ]
    steps += [
        {"namespace": plan.namespace, "command": setting.command, "why": setting.why}
        for plan in plans
        for setting in plan.settings
    ]
    remarks = [remark for plan in plans for remark in plan.remarks]
    if options.json:
        told = [
            {"path": f"/{file.path}", "mode": f"{file.mode:o}", "text": file.text, "why": file.why} for file in files
        ]
        print(json.dumps({"dry_run": options.dry_run, "changes": steps, "files": told, "remarks": remarks}))
        return
    for step in steps:
        print(f"{step['command']}\n    {step['why']}")
    for file in files:
        print(f"/{file.path} ({file.mode:o}): {file.why}")
        if options.dry_run:
            print("".join(f"    {line}\n" for line in file.text.splitlines()))
    for remark in remarks:
        print(f"note: {remark}")
    if not steps:
        print("rules and routes are as they should be: nothing to change")


def _command(plan: Plan, words: str) -> str:
    return f"ip -n {plan.namespace} {words}" if plan.namespace is not None else f"ip {words}"


def _known(name: str | None, names: Sequence[str]) -> bool:
    if name is None or name in names:
        return True
    print(f"no link is named '{name}'; links: {', '.join(names)}", file=sys.stderr)
    return False
