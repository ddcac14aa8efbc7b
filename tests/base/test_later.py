from __future__ import annotations

import importlib.metadata
import statistics
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base import averages
from base.version import VERSION

numbers = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


def test_the_version_is_that_of_the_installation() -> None:
    assert importlib.metadata.version("probefleet") == VERSION


@given(numbers)
def test_averages_are_those_of_the_standard_library(values: list[float]) -> None:
    assert averages.fmean(values) == pytest.approx(statistics.fmean(values))
    assert averages.median(values) == pytest.approx(statistics.median(values))
    assert averages.pvariance(values) == pytest.approx(statistics.pvariance(values), abs=1e-6, rel=1e-6)


def test_a_postponed_module_is_loaded_when_somebody_uses_it() -> None:
    script = """
import sys
from base.later import postpone
postpone("urllib.request")
import urllib.request
assert "http.client" not in sys.modules
assert urllib.request.Request("http://h/").host == "h"
assert "http.client" in sys.modules
from urllib.request import urlopen
postpone("urllib.request")
assert sys.modules["urllib.request"].urlopen is urlopen, "one that is loaded stays"
"""
    subprocess.run([sys.executable, "-c", script], check=True)
