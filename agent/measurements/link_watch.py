"""Whose fault a failure is: a server that does not answer over a link that is no longer there has not failed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from agent.measurements.base import MeasurementFailed
from agent.path import look
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.path import LinkPath


@contextlib.contextmanager
def on_link(path: LinkPath) -> Iterator[None]:
    """Turn a failure inside into LINK_LOST where the link has gone, or has another address, by the time it comes."""
    try:
        yield
    except MeasurementFailed as failure:
        now = look(path.interface)
        if now.up and now.source_address == path.source_address:
            raise
        what = "gone" if not now.exists else "down" if not now.up else "on another address"
        detail = f"{failure.detail}; {path.interface} is {what}"
        raise MeasurementFailed(Reason.LINK_LOST, detail, begun=True) from failure
