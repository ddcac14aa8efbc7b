"""The journey over the serial link: found by its USB identity, dialled, measured, pulled out, plugged in again.

Who plays: the kernel's own USB and PPP, its `option` driver, udev, pppd and iperf3 from Debian, our agent unchanged;
simulated is what stands behind the modem's AT ports. After `listed` the agent does everything by itself: it gets no
hand but those that pull the cable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.path import counters, look
from lab.netns import Run
from lab.vm.diary import until
from lab.vm.guest.network import SERVER, SERVER_PORT, OperatorNetwork
from lab.vm.guest.probe import Probe, run_agent
from lab.vm.guest.usb_modem import UsbModem
from lab.vm.guest.usb_names import names, wait_for_ports
from wire.events import Recovery
from wire.measured import Failed, Throughput

if TYPE_CHECKING:
    from pathlib import Path

    from lab.vm.diary import Diary

_INTERFACE: Final = "ppp0"
_UP_WITHIN_S: Final = 60.0
_GONE_WITHIN_S: Final = 15.0
_RESULT_WITHIN_S: Final = 60.0
_MID_TRANSFER_BYTES: Final = 150_000


def tell(diary: Diary, folder: Path) -> None:
    """Make the journey; its results stay in the agent's spool in `folder`. Raise GaveUp at the step that fails."""
    with Run() as run:
        network = OperatorNetwork(run.namespace("operator"))
        with UsbModem(folder, operator="viettel", on_data=network.carry) as modem:
            diary.tell("plugged in", **wait_for_ports())
            diary.tell("listed", **_listed())
            with Probe(folder, interface=_INTERFACE, server=SERVER, server_port=SERVER_PORT) as probe:
                diary.tell("brought up", **_brought_up(), log=probe.log)
                first = probe.wait_for(Throughput, after_seq=0, within_s=_RESULT_WITHIN_S)
                diary.tell("measured", result=first, truth=modem.truth.radio_now())

                _wait_for_a_transfer()
                modem.unplug()
                until(lambda: not look(_INTERFACE).exists, "the interface to go", within_s=_GONE_WITHIN_S)
                until(lambda: not names(), "udev to take the ports' names away", within_s=_GONE_WITHIN_S)
                diary.tell("pulled out")
                cut = probe.wait_for(Failed, after_seq=first.seq, within_s=_RESULT_WITHIN_S)
                diary.tell("reported the cut", result=cut)
                gone = probe.wait_for(Failed, after_seq=cut.seq, within_s=_RESULT_WITHIN_S)
                diary.tell("reported no link", result=gone)
                alert = probe.wait_for(Recovery, after_seq=cut.seq, within_s=_RESULT_WITHIN_S)
                diary.tell("raised the alarm", result=alert)

                network.serve()
                modem.plug()
                diary.tell("plugged in again", **wait_for_ports())
                diary.tell("brought up again", **_brought_up())
                again = probe.wait_for(Throughput, after_seq=alert.seq, within_s=_RESULT_WITHIN_S)
                diary.tell("measured again", result=again)
                diary.tell("stopped", status=probe.stop(), exists=look(_INTERFACE).exists, log=probe.log)
                diary.tell("spooled", seqs=[result.seq for result in probe.results])


def _listed() -> dict[str, Any]:
    done = run_agent("modem", "list", "--json")
    return {"status": done.returncode, "modems": msgspec.json.decode(done.stdout or "null"), "complaint": done.stderr}


def _brought_up() -> dict[str, Any]:
    """Wait until the interface is up and has an address; return its path."""
    until(_is_up, f"{_INTERFACE} to come up", within_s=_UP_WITHIN_S)
    return {"path": look(_INTERFACE)}


def _is_up() -> bool:
    path = look(_INTERFACE)
    return path.up and path.source_address is not None


def _wait_for_a_transfer() -> None:
    begun = counters()[_INTERFACE].both_bytes + _MID_TRANSFER_BYTES
    until(lambda: counters()[_INTERFACE].both_bytes > begun, "the next transfer to begin", within_s=_RESULT_WITHIN_S)
