"""The link emulator: a cable between a probe and the core that behaves like a cellular link.

`topology` builds the core, the probes and their cells; `link.Cell` is one link and its knobs; `relay` is the process
that delays, loses and replays; `trace` and `shaper` hold the arithmetic and do no I/O.
"""

from __future__ import annotations
