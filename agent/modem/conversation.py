"""A conversation with one modem: opens the port, finds its voice, asks one command at a time, keeps the story.

Every wait has an end: each command has its own, and the conversation as a whole has `deadline_s`. A port that vanishes
ends it at once with PortLost; a port that is no modem ends it with ModemSilent or NotAModem.
"""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from agent.modem.at import PROMPT, Answer, Dialogue, Notice, masked, names_of, prefix_of
from agent.modem.errors import ModemError, ModemSilent, ModemTimeout, NotAModem
from agent.modem.serial_port import Port, open_port
from agent.modem.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


_SYNC_S: Final = 12.0
"""How long a port may stay dumb after it is opened: modems wake late (ModemManager tries for up to a minute)."""
_SYNC_TRY_S: Final = 1.5
_QUIET_S: Final = 0.15
_MAX_NOISE_BYTES: Final = 32 * 1024
"""More than this without an answer to `AT` is a stream, not a modem."""
_MAX_SILENT: Final = 3
"""So many commands in a row without one byte: the modem is gone though its port is there."""
_EXCERPT: Final = 60
_NOTICES_KEPT: Final = 64
_DEFAULT_S: Final = 3.0
# MODEMS notes, section 3 (ModemManager's figures; 5 s for the slow serving-cell pages).
_TIMEOUT_S: Final = {
    **dict.fromkeys(("+CPIN", "+CREG", "+CGREG", "+CEREG", "+C5GREG"), 10.0),
    **dict.fromkeys(
        ("+QENG", "+CPSI", "!GSTATUS", "!LTEINFO", "!NRINFO", "+QCAINFO", "#RFSTS", "#SERVINFO", "^SMONI"), 5.0
    ),
}
_NMEA: Final = re.compile(r"\$(?:G[A-Z]|P)[A-Z0-9]{2,6},")


class Conversation:
    """A context manager. Raises only ModemError and its kinds; each carries the dialogue so far in `story`.

    `opener` and `clock` are there for tests.
    """

    def __init__(
        self,
        port: str,
        *,
        deadline_s: float = 60.0,
        opener: Callable[[str], Port] = open_port,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.port_name = port
        self.transcript = Transcript()
        self._deadline_s = deadline_s
        self._opener = opener
        self._clock = clock
        self._began_s = self._until_s = 0.0
        self._port: Port | None = None
        self._dialogue = Dialogue()
        self._heard: deque[str] = deque(maxlen=_NOTICES_KEPT)
        self._silent = 0
        self._unsettled = False

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._began_s = self._clock()
        self.renew()
        try:
            self._port = self._opener(self.port_name)
            self._sync()
            self.ask("ATE0V1")
            self.ask("AT+CMEE=1")
            if not self.ask('AT+CSCS="GSM"').ok:
                self.ask('AT+CSCS="IRA"')
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._leave(error)

    def renew(self, deadline_s: float | None = None) -> None:
        """Start the session's deadline anew, for one that is kept open."""
        self._until_s = self._clock() + (self._deadline_s if deadline_s is None else deadline_s)

    def _leave(self, error: BaseException | None) -> None:
        if isinstance(error, ModemError):
            self._remark(f"{type(error).__name__}: {error}")
            error.story = self.transcript.lines()
        if self._port is not None:
            self._port.close()
            self._port = None

    # --- asking -----------------------------------------------------------------------------------------------------

    def ask(self, command: str, timeout_s: float | None = None, *, text: str | None = None) -> Answer:
        """Send one command and return its answer; `answer.final` is None where the modem never ended it.

        `text` is what a command that prompts for one is given (ASCII); without it the prompt is declined.

        Raises PortLost, ModemSilent after three commands without a byte, ModemTimeout at the session's deadline.
        """
        if self._unsettled:
            self._settle()
        self._drain(0.0)
        self._heard.clear()
        names = names_of(command)
        limit_s = timeout_s or _TIMEOUT_S.get(names[0] if names else "", _DEFAULT_S)
        answer = self._exchange(command, limit_s)
        if answer.final == PROMPT and text is not None:
            answer = self._exchange(command, limit_s, text=text)
        if answer.final is None:
            self._unsettled = True
            self._silent = 0 if answer.lines else self._silent + 1
            self._remark(f"no end of the answer in {limit_s:g} s")
            if self._silent >= _MAX_SILENT:
                raise ModemSilent(
                    f"{self.port_name}: the modem answered before, and now not one of {_MAX_SILENT} commands; "
                    "a reset or a power cycle may help"
                )
        else:
            self._silent = 0
            if answer.final == PROMPT:
                self._write(b"\x1b")
        return answer

    def hear(self, prefix: str, timeout_s: float, whole: Callable[[str], bool]) -> str | None:
        """Wait for a notice that opens with `prefix` and is `whole`, lines that follow it joined by LF; None: too late.

        What came since the last `ask` began counts. Raises PortLost.
        """
        ends_s = min(self._clock() + timeout_s, self._until_s)
        while True:
            heard = list(self._heard)
            for first, line in enumerate(heard):
                if prefix_of(line) == prefix:
                    texts = ("\n".join(heard[first : last + 1]) for last in range(first, len(heard)))
                    if (found := next(filter(whole, texts), None)) is not None:
                        return found
            left_s = ends_s - self._clock()
            if left_s <= 0:
                return None
            self._take(self._read(left_s))

    def _exchange(self, command: str, limit_s: float, *, text: str | None = None) -> Answer:
        """Send a command, or the text that it has prompted for, and wait for the answer."""
        self._tell(">", command if text is None else text)
        opening = self._dialogue.begin(command)
        self._write(opening if text is None else text.encode("ascii", "replace") + b"\x1a")
        ends_s = min(self._clock() + limit_s, self._until_s)
        while True:
            left_s = ends_s - self._clock()
            answer = self._take(self._read(left_s)) if left_s > 0 else None
            if answer is None and left_s <= 0:
                answer = self._dialogue.give_up()
                self._tell_answer(answer)
                if self._clock() >= self._until_s:
                    self._unsettled = True
                    raise self._late(f"stopped at {masked(command)}")
            if answer is not None:
                return answer

    def _take(self, data: bytes) -> Answer | None:
        """Feed bytes; return the answer if they completed it. What follows it in the same read is told as notices."""
        done = None
        for event in self._dialogue.feed(data):
            if isinstance(event, Answer):
                done = event
                self._tell_answer(event)
            else:
                self._notice(event)
        return done

    def _settle(self) -> None:
        """After an answer that never ended: let its rest arrive, and find the voice again."""
        self._drain()
        if self._exchange("AT", _SYNC_TRY_S).final is not None:
            self._drain()
            self._unsettled = False
            self._silent = 0
        else:
            self._silent += 1

    def _drain(self, quiet_s: float = _QUIET_S) -> None:
        """Take what lies in the port until nothing comes for `quiet_s`; a port that never falls silent is no modem."""
        taken = 0
        while data := self._read(quiet_s):
            taken += len(data)
            self._take(data)
            if taken > _MAX_NOISE_BYTES:
                raise self._noise(data)
            if self._clock() >= self._until_s:
                raise self._late("the port never falls silent")

    def _sync(self) -> None:
        """Say `AT` until the port answers OK; raise ModemSilent, NotAModem."""
        ends_s = min(self._clock() + _SYNC_S, self._until_s)
        heard = bytearray()
        total = 0
        command = "AT"
        while self._clock() < ends_s:
            self._tell(">", command)
            self._write(self._dialogue.begin(command))
            try_ends_s = min(self._clock() + _SYNC_TRY_S, ends_s)
            answer = None
            while answer is None and (left_s := try_ends_s - self._clock()) > 0:
                data = self._read(left_s)
                total += len(data)
                heard = (heard + data)[-4096:]
                answer = self._take(data)
                if total > _MAX_NOISE_BYTES:
                    raise self._noise(bytes(heard))
            if answer is None:
                self._tell_answer(self._dialogue.give_up())
                if len(_NMEA.findall(heard.decode("ascii", "replace"))) > 1:
                    raise self._noise(bytes(heard))
            elif answer.final == PROMPT:
                self._write(b"\x1b")
            elif answer.ok:
                self._drain(_QUIET_S / 3)
                return
            command = "AT" if command != "AT" else "ATE0V1"
        if not total:
            raise ModemSilent(
                f"{self.port_name}: nothing answers AT; is this the modem's AT port, and is the modem powered?"
            )
        raise self._noise(bytes(heard))

    def _late(self, what: str) -> ModemTimeout:
        return ModemTimeout(
            f"{self.port_name}: not done within {self._deadline_s:g} s, {what}; is the modem overloaded?"
        )

    def _noise(self, heard: bytes) -> NotAModem:
        text = heard.decode("ascii", "replace")
        what = "something speaks, but does not answer AT"
        if _NMEA.search(text):
            what = "a positioning (NMEA) stream comes from it"
        elif heard.count(b"\x7e") > 1:
            what = "it speaks a framed binary protocol, like a diagnostic port"
        excerpt = "".join(c if c.isprintable() and c != "�" else "." for c in text[-_EXCERPT:])
        return NotAModem(f"{self.port_name}: {what} ({excerpt!r}); choose another port of this modem, or `auto`")

    def _read(self, timeout_s: float) -> bytes:
        return self._open_port().read(timeout_s)

    def _write(self, data: bytes) -> None:
        self._open_port().write(data)

    def _open_port(self) -> Port:
        if self._port is None:
            raise ModemError(f"{self.port_name}: the session is not open")
        return self._port

    # --- the story --------------------------------------------------------------------------------------------------

    def _tell(self, mark: str, text: str) -> None:
        self.transcript.add(self._clock() - self._began_s, mark, text)

    def _remark(self, text: str) -> None:
        self._tell("#", text)

    def _notice(self, event: Notice) -> None:
        self._heard.append(event.line)
        self._tell("!", event.line)

    def _tell_answer(self, answer: Answer) -> None:
        for line in answer.lines:
            self._tell("<", line)
        if answer.final is not None:
            self._tell("<", answer.final)
