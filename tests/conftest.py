"""What all tests share: options, and loud reasons for what this machine cannot show."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "servers"))  # importlib mode adds no folder by itself


settings.register_profile("any-machine", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("any-machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-vm", action="store_true", help="skip the tests that boot a virtual machine, and say so")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="NOT SHOWN: needs root for namespaces; run scripts/check as root"))
        if item.get_closest_marker("vm") and config.getoption("--no-vm"):
            item.add_marker(pytest.mark.skip(reason="NOT SHOWN: --no-vm was given"))
