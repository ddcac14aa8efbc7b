"""What the journeys share: a small fleet, and its story."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lab import sites
from lab.fleet import Fleet
from lab.story import BRISK, Story

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def story() -> Iterator[Story]:
    """Tell of one site with one link over 62/21 Mbps; its results travel over an uplink of their own."""
    (site,) = sites.fleet(1)
    with Fleet([replace(site, links=site.links[:1])], pace=BRISK) as fleet:
        yield Story(fleet)
