"""A core and one probe on a cell of its own, with a real iperf3 server; removed whatever happens."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from lab.cell.topology import Core, build_core
from lab.netns import NetworkError, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def core() -> Iterator[Core]:
    try:
        run = Run()
    except NetworkError as error:
        pytest.skip(str(error))
    with run:
        yield build_core(run)


@pytest.fixture
def iperf3_server(core: Core) -> Iterator[None]:
    server = core.namespace.popen(["iperf3", "-s", "--forceflush"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout:
        assert any("listening" in line for line in server.stdout)
        yield
        server.terminate()  # before its pipe closes
        server.wait(10)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    def wait(condition: Callable[[], bool], what: str, patience_s: float = 10) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {patience_s} s: {what}"
            time.sleep(0.02)

    return wait
