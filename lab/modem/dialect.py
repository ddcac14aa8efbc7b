"""What every simulated modem speaks: ITU-T V.250 and 3GPP TS 27.007. The vendors' files add and override.

A command is a method marked with the forms it answers: `+CREG?` read, `+CREG=` set, `+CREG=?` test, `+CREG` execute,
`E` basic. It returns information lines or an Answer, or raises Refused. A form nobody answers is an ERROR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, TypeVar

from lab.modem.commands import Answer, Request, framed, parse
from lab.modem.faults import FaultKind
from lab.modem.state import ModemState, Refused, Settings
from wire.radio import Technology

Handler = Callable[[Any, Request], "Answer | Sequence[str]"]
H = TypeVar("H", bound=Callable[..., object])

# 3GPP TS 27.007 section 9.2.
CME_TEXT: Final = {
    3: "operation not allowed",
    4: "operation not supported",
    10: "SIM not inserted",
    11: "SIM PIN required",
    12: "SIM PUK required",
    13: "SIM failure",
    14: "SIM busy",
    15: "SIM wrong",
    16: "incorrect password",
    30: "no network service",
    32: "network not allowed - emergency calls only",
    50: "Incorrect parameters",
    100: "unknown",
}
_CEREG: Final = "+CEREG"


def at(*forms: str) -> Callable[[H], H]:
    """Mark a method as the answer to these forms."""

    def mark(method: H) -> H:
        method.forms = forms  # type: ignore[attr-defined]  # a mark read back by Dialect.__init__
        return method

    return mark


class Dialect:
    """One family's commands over one modem's state."""

    name: ClassVar[str]
    manufacturer: ClassVar[str]
    model: ClassVar[str]
    revision: ClassVar[str]
    factory: ClassVar[Settings] = Settings()
    connect: ClassVar[str] = "CONNECT"
    quoted_location: ClassVar[bool] = True  # +CREG: quotes about area and cell differ between firmwares
    chatter_s: ClassVar[float | None] = None  # how often `chatter()` is said unasked

    def __init__(self, state: ModemState) -> None:
        self.state = state
        self._handlers: dict[str, Handler] = {}
        for kind in reversed(type(self).__mro__):
            for method in vars(kind).values():
                for form in getattr(method, "forms", ()):
                    self._handlers[form] = method
        self._urcs: list[str] = []
        self._announced = self._service()

    # --- the line

    def run(self, line: str) -> tuple[list[str], bytes, Answer]:
        """Execute a command line; return its command names, the framed answer, and the last command's Answer."""
        try:
            requests = parse(line)
        except ValueError:
            return [], framed([], "ERROR", words=self.state.settings.words), Answer(final="ERROR")
        names = [request.form for request in requests] or [""]
        groups: list[Sequence[str]] = []
        answer = Answer()
        for request in requests:
            answer = self._execute(request)
            groups.append(answer.lines)
            if answer.final != "OK":
                break
        return names, framed(groups, answer.final, words=self.state.settings.words), answer

    def _execute(self, request: Request) -> Answer:
        fault = self.state.faults.take(FaultKind.CME_ERROR, [request.form])
        if fault:
            return Answer(final=self.error(fault.code))
        handler = self._handlers.get(request.form)
        if handler is None:
            known_test = request.form.endswith("=?") and any(
                form.rstrip("=?") == request.name for form in self._handlers
            )
            return Answer(final="OK" if known_test else "ERROR")
        try:
            answer = handler(self, request)
        except Refused as refusal:
            return Answer(final=self.error(refusal.code))
        except (ValueError, IndexError):
            return Answer(final=self.error(50))
        return answer if isinstance(answer, Answer) else Answer(answer)

    def error(self, code: int | None) -> str:
        """Spell an error as +CMEE asks (TS 27.007 section 9.1)."""
        if code is None or self.state.settings.cmee == 0:
            return "ERROR"
        return f"+CME ERROR: {code if self.state.settings.cmee == 1 else CME_TEXT.get(code, 'unknown')}"

    # --- what is said unasked

    def settle(self) -> list[str]:
        """Return the unsolicited lines that the last changes call for."""
        now = self._service()
        if now != self._announced:
            self._announced = now
            for prefix, mode in self.state.settings.reports.items():
                if mode:
                    self.say(f"{prefix}: {self.location(prefix, mode)}")
        lines, self._urcs = self._urcs, []
        return lines

    def say(self, *lines: str) -> None:
        """Say these lines unasked, at the next chance."""
        self._urcs += lines

    def boot_lines(self) -> list[tuple[float, str]]:
        """Return what is said after power-up: seconds, line."""
        return []

    def chatter(self) -> list[str]:
        """Return what is said every `chatter_s`."""
        return []

    def storm(self) -> list[str]:
        """Return lines that a storm is made of: such as share a prefix with answers are the nasty ones."""
        stat = self.state.stat
        return ["RING", f"+CREG: {stat}", f"+CEREG: {stat}", f"+CGREG: {stat}", '+CMTI: "ME",1', "+CSQ: 99,99"]

    def sim_lines(self) -> list[str]:
        """Return what is said when the SIM comes or goes."""
        return []

    def _service(self) -> tuple[object, ...]:
        cell = self.state.cell
        return (self.state.stat, cell.tac, cell.cell_id, cell.act) if self.state.registered else (self.state.stat,)

    def location(self, prefix: str, mode: int) -> str:
        """Return state of registration and, in mode 2, where; +CEREG knows E-UTRAN only (TS 27.007 section 10.1.22)."""
        lte = self.state.cell.technology is Technology.LTE
        stat = 0 if prefix == _CEREG and not lte else self.state.stat
        if mode != 2 or stat not in {1, 5}:  # noqa: PLR2004  # mode 2 adds where, once registered
            return str(stat)
        area, cell = f"{self.state.cell.tac:X}", f"{self.state.cell.cell_id:X}"
        where = f'"{area}","{cell}"' if self.quoted_location else f"{area},{cell}"
        return f"{stat},{where},{self.state.cell.act}"
