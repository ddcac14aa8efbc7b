"""`probe-agent`: the commands, and the only place that builds the agent's objects.

`run` lives for months, so it loads nothing that only its start needs: a child process reads the command line and the
configuration for it (0.4 MB of argparse, 1.3 MB of YAML).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from base import apart, logs
from base.configfile import ConfigError
from base.durable import StorageError
from base.later import postpone

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from agent.clock import SystemClock
    from agent.modems import SerialModems
    from agent.settings import Settings

log = logging.getLogger(__name__)

_EXAMPLES: Final = """\
examples:
  probe-agent check-config                      is /etc/probefleet/agent.yaml right? (names every mistake)
  probe-agent links                             what each link's interface and modem say now
  probe-agent once throughput-reference         one test now, on every link of the job
  probe-agent once radio --link viettel --json
  probe-agent run                               measure on schedule (what the systemd unit does)
  probe-agent link setup --dry-run              how each link gets a routing table of its own, and why
  probe-agent plan show                         what the data plans leave, and which tests are next
  probe-agent modem list                        which modems are plugged in, and who holds their ports
  probe-agent modem up --link viettel           bring a link up, step by step (--dry-run: only explain)
  probe-agent modem recover --dry-run           what the recovery ladder would do now, and why
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 0 if it did its work, 1 if it could not, 2 for wrong usage or configuration."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(_run(words) if words[:1] == ["run"] else _main(words))


def _main(words: list[str]) -> int:
    options = _parser().parse_args(words)
    logs.set_up(verbose=options.verbose)
    return _status_of(lambda: options.handler(options))


def _run(words: list[str]) -> int:
    postpone("locale")  # subprocess asks it for an encoding, where that is neither named nor UTF-8 mode's
    from agent.settings import unpack  # noqa: PLC0415  # before the child begins: it needs the same modules

    verbose, packed = msgspec.msgpack.decode(apart.answer_of(lambda: _order(words)), type=tuple[bool, bytes])
    logs.set_up(verbose=verbose)
    return _status_of(lambda: _measure(unpack(packed)))


def _status_of(command: Callable[[], int]) -> int:
    """Carry a command out; say in one line what it could not do."""
    from agent.service import AlreadyRunningError  # noqa: PLC0415  # --help and version start quickly without it
    from base.broker import CredentialsError  # noqa: PLC0415  # the same

    try:
        return command()
    except (ConfigError, CredentialsError) as error:
        print(error, file=sys.stderr)
        return 2
    except (StorageError, AlreadyRunningError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    import argparse  # noqa: PLC0415  # not for a running agent, nor what follows

    from agent import link_setup  # noqa: PLC0415  # as above
    from agent.modem import commands as modem_commands  # noqa: PLC0415  # as above

    parser = argparse.ArgumentParser(
        prog="probe-agent",
        description="Measures mobile Internet over this machine's modems and sends every result to the collector.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--verbose", action="store_true", help="log more")
    configured = argparse.ArgumentParser(add_help=False, parents=[common])
    configured.add_argument("--config", type=Path, default=Path("/etc/probefleet/agent.yaml"), metavar="FILE")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    commands.add_parser("run", parents=[configured], help="measure on schedule until stopped")

    once = commands.add_parser("once", parents=[configured], help="run one job now and show what came of it")
    once.add_argument("job", metavar="JOB", help="a job of agent.yaml")
    once.add_argument("--link", metavar="LINK", help="only on this link")
    once.add_argument("--json", action="store_true", help="print results as JSON, one a line")
    once.set_defaults(handler=_once)

    links = commands.add_parser("links", parents=[configured], help="show what each link's interface and modem say")
    links.add_argument("--json", action="store_true")
    links.set_defaults(handler=_links)

    check = commands.add_parser("check-config", parents=[configured], help="name every mistake in agent.yaml")
    check.set_defaults(handler=_check_config)

    plan = commands.add_parser("plan", help="the SIMs' data plans: what is spent, what is left, which runs are next")
    plans = plan.add_subparsers(required=True, metavar="COMMAND")
    plan_show = plans.add_parser("show", parents=[configured], help="show spent, left, next runs, and what is left out")
    plan_show.add_argument("--json", action="store_true")
    plan_show.set_defaults(handler=_plan_show)

    version = commands.add_parser("version", parents=[common], help="print the version")
    version.set_defaults(handler=_version)

    link_setup.add_parser(commands, configured)
    modem_commands.add_parser(commands)
    parser.set_defaults(verbose=False)
    return parser


def _order(words: list[str]) -> bytes:
    """Read the command line of `run`, and its configuration; leave with status 2 where they cannot be used."""
    from agent.settings import pack  # noqa: PLC0415  # as above

    options = _parser().parse_args(words)
    try:
        return msgspec.msgpack.encode((options.verbose, pack(_settings(options))))
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _measure(settings: Settings) -> int:
    from agent.balance import Balances  # noqa: PLC0415  # as above
    from agent.router import Keeper, keep_rights_to_oneself  # noqa: PLC0415  # as above
    from agent.service import Service, sole_use  # noqa: PLC0415  # as above
    from agent.upkeep import Upkeep  # noqa: PLC0415  # as above

    keep_rights_to_oneself()
    with sole_use(settings.data_dir):
        clock, modems = _world()
        service = Service(settings, clock, modems)
        service.runner.keeper = Keeper(settings.links)
        service.runner.keeper.keep()
        service.upkeep = Upkeep(settings, clock, modems, service.runner)
        service.balances = Balances(settings, service.spool, clock, modems, service.runner.budget)
        return 0 if service.run() else 1


def _once(options: argparse.Namespace) -> int:
    from agent.once import NotThere, run_once  # noqa: PLC0415  # as above
    from agent.router import Keeper  # noqa: PLC0415  # as above
    from agent.service import Service, sole_use  # noqa: PLC0415  # as above

    settings = _settings(options)
    with sole_use(settings.data_dir):
        service = Service(settings, *_world())
        service.runner.keeper = Keeper(settings.links)
        try:
            return run_once(service, options.job, options.link, as_json=options.json)
        except NotThere as error:
            print(error, file=sys.stderr)
            return 2


def _links(options: argparse.Namespace) -> int:
    from agent.links import show  # noqa: PLC0415  # as above

    return show(_settings(options), _world()[1], as_json=options.json)


def _plan_show(options: argparse.Namespace) -> int:
    from agent.plan_show import show  # noqa: PLC0415  # as above

    return show(_settings(options), _world()[0], as_json=options.json)


def _check_config(options: argparse.Namespace) -> int:
    from base.broker import read_credentials  # noqa: PLC0415  # as above

    settings = _settings(options)
    if settings.broker.credentials_file is not None:
        read_credentials(settings.broker.credentials_file)
    links = ", ".join(link.name for link in settings.links)
    jobs = ", ".join(job.name for job in settings.jobs)
    print(f"{options.config}: good. Probe {settings.probe_id} at {settings.site.id}; links: {links}; jobs: {jobs}")
    return 0


def _version(_options: argparse.Namespace) -> int:
    from agent.runner import AGENT_VERSION  # noqa: PLC0415  # as above

    print(AGENT_VERSION)
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    from agent.settings import load  # noqa: PLC0415  # as above

    return load(options.config)


def _world() -> tuple[SystemClock, SerialModems]:
    """Build what reaches outside: the clock and the modems."""
    from agent.clock import SystemClock  # noqa: PLC0415  # as above
    from agent.modems import SerialModems  # noqa: PLC0415  # as above

    return SystemClock(), SerialModems()


if __name__ == "__main__":
    main()
