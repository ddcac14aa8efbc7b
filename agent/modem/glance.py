"""The shortest look at a modem: its technology, by one question where one is enough. For the time of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.modem.merge import to_radio
from agent.modem.vendors import family_of
from wire.radio import RadioReading

if TYPE_CHECKING:
    from agent.modem.session import ModemSession
    from agent.modem.vendors.profile import Poll

GLANCE_WITHIN_S: Final = 5.0


class Glance:
    """Looks again and again through one open session; each call raises ModemError or ends within GLANCE_WITHIN_S."""

    def __init__(self, session: ModemSession) -> None:
        """Take the session; nothing is asked yet."""
        self._session = session
        self._polls: list[Poll] = []

    def __call__(self) -> RadioReading:
        """Ask what told the technology last time; if it does not tell any more, what tells it now is asked first."""
        self._session.renew(GLANCE_WITHIN_S)
        if not self._polls:
            self._polls = list(family_of(self._session.read("AT+CEREG?").vendor).profile.polls)
        for poll in self._polls:
            for command in poll.first:
                self._session.ask(command)
            reading = self._session.read(poll.command)
            if reading.technology is not None:
                self._polls.remove(poll)
                self._polls.insert(0, poll)
                return to_radio([reading])
        return RadioReading()
