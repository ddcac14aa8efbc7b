"""What can go wrong with a modem, sorted by what the caller does next; each carries the reason of a failed result."""

from __future__ import annotations

from typing import ClassVar

from wire.reasons import Reason


class ModemError(Exception):
    """Any failure of a modem or its port. `reason` goes into the result; the text says where, what, what to do."""

    reason: ClassVar[Reason] = Reason.MODEM_ERROR
    story: tuple[str, ...] = ()
    """The dialogue that led here, without secrets and identities; empty where there was none."""


class NoModem(ModemError):
    """No such port, no modem found, or several and none named."""

    reason = Reason.NO_MODEM


class PortBusy(ModemError):
    """Another program holds the port."""

    reason = Reason.MODEM_ERROR


class PortForbidden(ModemError):
    """This user may not open the port."""

    reason = Reason.MODEM_ERROR


class PortLost(ModemError):
    """The port vanished while in use: unplugged, reset, or its power failed."""

    reason = Reason.LINK_LOST


class ModemSilent(ModemError):
    """The port opens but nothing answers `AT`."""

    reason = Reason.MODEM_SILENT


class NotAModem(ModemError):
    """Something speaks on the port, but not AT: a positioning stream, a diagnostic port, another device."""

    reason = Reason.NO_MODEM


class ModemTimeout(ModemError):
    """A modem that has answered before did not answer this command, or the deadline of the session has passed."""

    reason = Reason.MODEM_SILENT


class CommandRefused(ModemError):
    """The modem answered with an error where the session cannot go on without an answer."""

    reason = Reason.MODEM_ERROR


class SimAbsent(ModemError):
    """The modem finds no SIM."""

    reason = Reason.SIM_ABSENT


class SimLocked(ModemError):
    """The SIM waits for a PIN or a PUK; none is ever typed here."""

    reason = Reason.SIM_LOCKED


class NotRegistered(ModemError):
    """The modem is not registered on a network."""

    reason = Reason.NO_REGISTRATION
