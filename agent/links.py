"""`probe-agent links`: what each link's interface and modem say now, for the technician who has just plugged it in."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from agent import path, router
from agent.measurements.base import MeasurementFailed
from agent.namespace import inside
from base.table import render

if TYPE_CHECKING:
    from agent.bench import Modems
    from agent.settings import Link, Settings

_COLUMNS = ("link", "interface", "state", "address", "modem", "operator", "technology", "band", "RSRP dBm", "remark")


def show(settings: Settings, modems: Modems, *, as_json: bool) -> int:
    """Print one row per link; return 0 if every link could carry a test now, else 1."""
    facts = [_look(link, modems) for link in settings.links]
    if as_json:
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    else:
        rows = [[fact.get(column) for column in _COLUMNS] for fact in facts]
        sys.stdout.write(render(_COLUMNS, rows) + "\n")
    if (told := _routes(settings)) is not None:
        sys.stderr.write(f"{told}\n")
    return 0 if all(fact["usable"] for fact in facts) else 1


def _routes(settings: Settings) -> str | None:
    """Say what is wrong with the links' routing tables, if anything is."""
    try:
        due = sum(len(plan.changes) for plan in router.plan(settings.links))
    except (router.RoutesError, MeasurementFailed) as error:
        return f"routing tables: {error}"
    return f"routing tables: {due} changes are due; `probe-agent link setup --dry-run` explains them" if due else None


def _look(link: Link, modems: Modems) -> dict[str, Any]:
    try:
        with inside(link.namespace):
            return _look_inside(link, modems)
    except MeasurementFailed as failure:
        return {"link": link.name, "interface": link.interface, "usable": False, "remark": failure.detail}


def _look_inside(link: Link, modems: Modems) -> dict[str, Any]:
    found = path.look(link.interface)
    state = "absent" if not found.exists else "up" if found.up else "down"
    fact: dict[str, Any] = {
        "link": link.name,
        "interface": link.interface,
        "state": state,
        "address": found.source_address,
        "usable": found.up and found.source_address is not None,
    }
    if link.modem is None:
        return fact
    sys.stderr.write(f"{link.name}: asking the modem ({link.modem}) ...\n")
    try:
        look = modems.look(link)
    except MeasurementFailed as failure:
        return fact | {"remark": f"{failure.reason}: {failure.detail}", "usable": False}
    reading = look.reading
    return fact | {
        "modem": look.model,
        "operator": reading.operator,
        "technology": reading.technology,
        "band": reading.band,
        "RSRP dBm": reading.rsrp_dbm,
        "remark": None if reading.registration == "home" else reading.registration,
    }
