"""Modems: AT dialogue, vendor dialects, discovery, sessions. Importing it loads no serial library."""

from agent.modem.merge import to_radio
from agent.modem.reading import ModemReading
from agent.modem.vendors import read_reply

__all__ = ["ModemReading", "read_reply", "to_radio"]
