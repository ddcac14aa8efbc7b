"""AT dialogue without I/O: bytes in any slicing go in, answers and unsolicited notices come out.

Knows no port, no clock, no log. One command is in flight at a time; whoever owns the clock calls `give_up` when the
modem takes too long and gets the lines that came. Every buffer has a bound; what does not fit is counted, not kept.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_LINE_BYTES: Final = 4096
"""A line longer than this is no AT answer (the longest known, +COPS=? and +CUSD, stay below 2 kB)."""
MAX_LINES: Final = 256
"""Information lines kept of one answer."""
PROMPT: Final = ">"
"""The final of a command that now wants its text (3GPP TS 27.005 3.5.1: CR LF > blank, no line end)."""

_PROMPT_BYTES: Final = b"> "

# Final results: ITU-T V.250 table 1 and 5.7, 3GPP TS 27.005 3.2.5 and 27.007 9; then what Samsung (NA), Motorola (MODEM
# ERROR) and Huawei (COMMAND NOT SUPPORT) send. Every alternative is matched as a whole line: `OKAY` is no `OK`.
_OK = re.compile(r"OK")
_CONNECT = re.compile(r"CONNECT(?: [0-9].*)?")
_ERROR = re.compile(
    r"ERROR(?::.*)?|\+CM[ES] ERROR(?::.*)?|MODEM ERROR:.*|\+EXT ERROR:.*|COMMAND NOT SUPPORT(?:ED)?|NA|ABORTED"
)
# Call results end a dialling command; in front of any other answer they are notices that a call or data link ended.
_CALL_RESULT = re.compile(r"NO CARRIER|BUSY|NO ANSWER|NO DIAL ?TONE")
_DIALS = re.compile(r"AT\s*(?:[DAHO]|\+CGDATA|\+FCLASS)", re.IGNORECASE)
_CAUSE = re.compile(r"\+CM[ES] ERROR:\s*([0-9]{1,4})")

# Notices that modems send by themselves: 27.005, 27.007, and the families' manuals. A prefix that the command in flight
# asked for is an answer all the same.
_NOTICE_PREFIXES: Final = frozenset(
    re.split(
        r"\s+",
        """+CREG +CGREG +CEREG +C5GREG +CGEV +CIEV +CMTI +CMT +CDS +CDSI +CBM +CBMI +CLIP +CRING +CCWA +CTZV +CTZE
        +CTZEU +CTZDST +CUSD +CSSI +CSSU +COLP +CPIN +CSQ +CSQN +CNEC_ESM +CNEC_EMM +CEDRXP +CSCON +CPINR
        +CABTSRI +CNEMIU +CRTDCP +QIURC +QIND +QUSIM +QSIMSTAT +QSTK +QSTKURC +QCSQ +QNETDEVSTATUS +QJDR
        +QUSBCFG +QMTSTAT +QMTRECV +QNWLOCK +SIMCARD +SIMEI +SPN +PSUTTZ *PSUTTZ *PSNWID DST +CUSATP +CUSATEND
        +STIN +SIMCOM +CPSI +CGNSINF +APP +NETOPEN ^RSSI ^HCSQ ^MODE ^DSFLOWRPT ^BOOT ^SRVST ^SIMST ^STIN
        ^NWTIME ^CERSSI ^ANLEVEL ^THERM ^NDISSTAT ^RFSWITCH ^CRSSI ^SYSSTART ^SYSLOADING ^SBC ^SCKS ^SSIM
        ^SHUTDOWN ^EXIT ^CONN ^CEND ^ORIG ^CONF ^RING ^LTECELLINFO ^EONS ^SMMEMFULL ^CSNR ^CCIN ^CPIN ^HRSSILVL
        ^DATACONNECT ^POSITION ^ECCLIST ^SIMHOTPLUG ^HDRRSSI ^LWURC ^PDPDREJ ^CMSRUPDATE ^FREQLOCK +ZUSIMR
        +ZPASR +ZEND +ZDONR +ZPSTM +ZURDY +ZMSRI +ZSTR +ZICCID +ZULRTI +ZCONSTAT +ZPBIC +ZLRSSI #QSS #NITZ
        #PSMURI #ECAM #DREL #SKTRING #CODECINFO #STN #FTPMSG #RFSTS #QDNS #PSEV +PBREADY +READY *ATREADY *STKEND
        *EMRDY *MSTK *ESTKSMENU +MSTK +RUSD +PACSP0 +PACSP1 $QCSIMSTAT $QCRMCALL *E2REG *EHNET +UREG +UMWI +XREG
        +XCIEV +XCOLP +XDNS +XUICC +XSIM +XCALLSTAT +XNITZINFO +XREGFAIL +XLEMA +UUSORD +UUPSDA +UUPSDD
        +UUSIMSTAT +UUSTS +UUSORF +UUSOCL +UULOC +UUHTTPCR +UUPING +WIND +CCIN +KSUP +KCNX_IND +KUP +EMRDY
        %NWSTATE _OSSYSI _OWANCALL _OUWCTI""",
    )
)
_NOTICE_LINES = re.compile(
    r"RING|RDY|APP RDY|PB DONE|SMS DONE|SMS READY|CALL READY|SIM READY|SIM DROP|NORMAL POWER DOWN|POWERED DOWN|START"
    r"|MODEM:STARTUP|EPS PDN ACT [0-9]|\*PSUTTZ.*|RECV FROM:.*|UNDER-VOLTAGE.*|OVER-VOLTAGE.*",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"([+^#!*%$&_@]\s?[A-Za-z][A-Za-z0-9_]{0,15}|DST)\s*:")
_NAME = re.compile(r"\s*([+^#!*%$&_@\\][A-Za-z][A-Za-z0-9_]*)")
# Answers that carry another name than their command (MODEMS: +ZPAS; ModemManager and vendors' manuals for the rest).
_OTHER_NAMES: Final = {
    "+ZPAS": ("+BEARTYPE",),
    "+CPSI": ("+CPSI",),
    "+QCCID": ("+CCID", "+ICCID"),
    "+CICCID": ("+ICCID",),
    "^ICCID": ("+ICCID",),
    "+UCGED": ("+RSRP", "+RSRQ", "+CGED"),
    "#RFSTS": ("#RFSTS",),
    "+CUSD": ("+CUSD",),
}
_REGISTRATION: Final = frozenset({"+CREG", "+CGREG", "+CEREG", "+C5GREG"})

# Commands whose arguments are secrets: PINs, passwords, APDUs (which may verify a PIN), APN accounts.
_SECRET = re.compile(
    r"([+^#*$%]\s?(?:CPIN2?|CLCK|CPWD|CSIM|CRSM|CGLA|CGAUTH|QICSGP|QGPAPN|AUTHDATA|PPPCFG|UAUTHREQ|UPSD|XUSER|SGAUTH|CNAUTH"
    r"|QSIMVRFY|CMUX_KEY|QCPDPP|NDISDUP|CSTT|SPIN|CGPCO|SICA|SISS?|PINCODE|CHAP|UNLOCK|CARDLOCK|QHTTPCFG)\s*=)(?!\?).+",
    re.IGNORECASE,
)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """All that came back for one command. `final` is None where the modem never ended its answer."""

    command: str
    lines: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    final: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the modem ended the answer well: OK, CONNECT or the prompt."""
        return self.final is not None and self.error is None

    @property
    def error(self) -> str | None:
        """The final result line as sent, if it is an error."""
        failed = self.final is not None and (_ERROR.fullmatch(self.final) or _CALL_RESULT.fullmatch(self.final))
        return self.final if failed else None

    @property
    def cause(self) -> int | None:
        """The number of a +CME or +CMS ERROR; None for a textual one or another final."""
        found = _CAUSE.match(self.final or "")
        return int(found[1]) if found else None


class Notice(msgspec.Struct, frozen=True):
    """A line that no command in flight asked for."""

    line: str


class InFlight(RuntimeError):
    """A second command while one is in flight: a mistake of the caller."""


class Dialogue:
    """One side of an AT port. `begin` gives the bytes to send; `feed` takes what arrives, in any slicing."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping = False
        self._command: str | None = None
        self._sorter: _Sorter | None = None
        self.dropped_bytes = 0
        self.line_count = 0

    @property
    def busy(self) -> bool:
        """Whether a command is in flight."""
        return self._command is not None

    @property
    def pending(self) -> str:
        """The line that has begun and not ended."""
        return _text(bytes(self._buffer))

    def begin(self, command: str) -> bytes:
        """Take a command in flight and return the bytes to write; raise InFlight, ValueError for a line break in it."""
        if self._command is not None:
            raise InFlight(f"{masked(self._command)} is still in flight; one command at a time")
        if re.search(r"[\r\n\x1a\x1b]", command):
            raise ValueError("a command is one line without control characters")
        self._command = command
        self._sorter = _Sorter(command)
        return command.encode("ascii") + b"\r"

    def feed(self, data: bytes) -> list[Answer | Notice]:
        """Take any slice of the stream; return the answers and notices that it completed."""
        events: list[Answer | Notice] = []
        for piece in re.split(rb"([\r\n])", data):
            if piece in {b"\r", b"\n"}:
                self._end_line(events)
            elif piece:
                head = max(0, len(_PROMPT_BYTES) - len(self._buffer))
                self._extend(piece[:head])
                if self._sorter is not None and self._buffer == _PROMPT_BYTES:
                    self._buffer.clear()
                    events.append(self._finish(PROMPT))
                self._extend(piece[head:])
        return events

    def give_up(self) -> Answer:
        """End the command in flight without its final; the begun line counts. Raise InFlight if there is none."""
        if self._sorter is None:
            raise InFlight("no command is in flight")
        line, skipping = self.pending, self._skipping
        self._buffer.clear()
        self._skipping = False
        final = None
        if line and not skipping:
            final = self._sorter.take(line)
        return self._finish(final or self._sorter.call_result)

    def _extend(self, piece: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._buffer)
        if self._skipping or len(piece) > room:
            self.dropped_bytes += len(piece)
            self._skipping = True
        else:
            self._buffer += piece

    def _end_line(self, events: list[Answer | Notice]) -> None:
        line, skipped = self.pending, self._skipping
        self._buffer.clear()
        self._skipping = False
        if skipped or not line:
            return
        self.line_count += 1
        if self._sorter is None:
            events.append(Notice(line))
            return
        before = len(self._sorter.notices)
        final = self._sorter.take(line)
        events.extend(Notice(notice) for notice in self._sorter.notices[before:])
        if final is not None:
            events.append(self._finish(final))

    def _finish(self, final: str | None) -> Answer:
        assert self._sorter is not None  # noqa: S101 - both callers have checked it
        answer = self._sorter.answer(final)
        self._command = self._sorter = None
        return answer


class _Sorter:
    """Tells echo, information, notices and the final of one command apart, line by line."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.notices: list[str] = []
        self.call_result: str | None = None
        self._names = names_of(command)
        self._secrets = secrets_of(command)
        self._lines: list[str] = []
        self._early: deque[str] = deque(maxlen=16)  # registration lines in the form of a notice
        self._echo_seen = False

    def take(self, line: str) -> str | None:
        """Sort one line in; return it if it is the final one."""
        line = self._without_echo(line)
        for secret in self._secrets:
            line = line.replace(secret, "****")
        if not line:
            return None
        if _OK.fullmatch(line) or _ERROR.fullmatch(line):
            return line
        if _CONNECT.fullmatch(line) or _CALL_RESULT.fullmatch(line):
            if _DIALS.match(self.command):
                return line
            self._notice(line)
            self.call_result = line if _CALL_RESULT.fullmatch(line) else self.call_result
        elif self._is_notice(line):
            self._notice(line)
        elif self._names[:1] and self._names[0] in _REGISTRATION and is_registration_notice(line):
            self._early.append(line)
        elif len(self._lines) < MAX_LINES:
            self._lines.append(line)
        return None

    def answer(self, final: str | None) -> Answer:
        """Close the books. Registration lines in the form of a notice count only where no solicited one came."""
        if self._early and not any(prefix_of(line) in self._names for line in self._lines):
            self._lines.append(self._early.pop())
        self.notices.extend(self._early)
        return Answer(command=self.command, lines=tuple(self._lines), notices=tuple(self.notices), final=final)

    def _notice(self, line: str) -> None:
        if len(self.notices) < MAX_LINES:
            self.notices.append(line)

    def _is_notice(self, line: str) -> bool:
        prefix = prefix_of(line)
        if prefix is None:
            return bool(_NOTICE_LINES.fullmatch(line))
        return prefix not in self._names and (prefix in _NOTICE_PREFIXES or prefix.startswith("+UU"))

    def _without_echo(self, line: str) -> str:
        """Take the echo off: whole, in another case, with a few bytes lost, or stuck to what follows it."""
        sent, came = self.command.upper(), line.upper()
        if came.startswith(sent) and len(sent) > len("ATI"):
            rest = line[len(sent) :].strip()
            if not rest or prefix_of(rest) is not None or is_final(rest):
                return rest
        if self._lines or self._echo_seen:
            return line
        garbled = len(came) >= len("AT+") and (sent.endswith(came) or sent.startswith(came)) and not is_final(line)
        if came == sent or garbled or re.match(r"AT[+^#!&*%$\\_]", came) or _almost(came, sent):
            self._echo_seen = True
            return ""
        return line


def _almost(came: str, sent: str) -> bool:
    """Whether a line is the command with at most one byte in eight changed."""
    if len(came) != len(sent) or len(sent) < len("AT+CSQ") or prefix_of(came) is not None:
        return False
    return sum(a != b for a, b in zip(came, sent, strict=True)) * 8 <= len(sent)


def _text(data: bytes) -> str:
    return "".join(c for c in data.decode("utf-8", "replace") if c == "\t" or c >= " ").strip()


def prefix_of(line: str) -> str | None:
    """Return the upper-case name that opens a line (`+CSQ` of `+csq: 1,2`), or None."""
    found = _PREFIX.match(line)
    return found[1].replace(" ", "").upper() if found else None


def names_of(command: str) -> tuple[str, ...]:
    """Names that the answer to a command may carry, the command's own first; none for ATI, ATD and the like."""
    names: list[str] = []
    for part in re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', re.sub(r"(?i)^\s*AT", "", command)):
        found = _NAME.match(part)
        if found:
            own = found[1].upper()
            names += [own, *_OTHER_NAMES.get(own, ())]
    return tuple(names)


def is_final(line: str) -> bool:
    """Whether a line is a final result code."""
    return any(pattern.fullmatch(line) for pattern in (_OK, _CONNECT, _ERROR, _CALL_RESULT))


_STAT = r"0{0,2}(?:[0-9]|1[01])"
_SOLICITED = re.compile(rf"\s*0{{0,2}}[0-5]\s*,\s*{_STAT}\s*(?:$|,.*)")
_THREE_BARE = re.compile(r"[^,\"]*,[^,\"]*,[^,\"]*")


def is_registration_notice(line: str) -> bool:
    """Tell `+CREG: <stat>[,<lac>,<ci>[,...]]` (a notice) from `+CREG: <n>,<stat>[,...]` (an answer), TS 27.007 7.2.

    In a notice the second field is an area code: quoted, or of other than one or two digits. Three bare fields can
    only be <stat>,<lac>,<ci>, since <lac> never comes without <ci>.
    """
    if prefix_of(line) not in _REGISTRATION:
        return False
    body = line.partition(":")[2]
    return not _SOLICITED.match(body) or bool(_THREE_BARE.fullmatch(body))


def secrets_of(command: str) -> tuple[str, ...]:
    """Return the arguments of a command that must not be shown, longest first; modes and other short ones are not."""
    found = _SECRET.search(command)
    if not found:
        return ()
    arguments = re.findall(r'"([^"]+)"|([^,;"]+)', command[found.start() :].partition("=")[2])
    values = {value.strip() for pair in arguments for value in pair}
    return tuple(sorted((v for v in values if len(v) >= len("1234")), key=len, reverse=True))


def masked(text: str) -> str:
    """Return a command, or its echo, with the arguments of PIN, password and APDU commands replaced by `****`."""
    return _SECRET.sub(r"\1****", text)


def sort_lines(command: str, lines: Iterable[str]) -> Answer:
    """Sort a whole recorded reply: the same rules as for a live one. `URC` as the command: every line counts."""
    cleaned = list(_cleaned(lines))
    if command.strip().upper() == "URC":
        return Answer(command=command, lines=tuple(line for line in cleaned if not is_final(line))[:MAX_LINES])
    sorter = _Sorter(command.strip())
    final = None
    for line in cleaned:
        if final is None:
            final = sorter.take(line)
        else:
            sorter.notices.append(line)
    return sorter.answer(final or sorter.call_result)


def _cleaned(lines: Iterable[str]) -> Sequence[str]:
    """Split at any CR or LF inside the lines, strip, drop the empty ones."""
    pieces = (piece for line in lines for piece in re.split(r"[\r\n]", line))
    return [text for piece in pieces if (text := _text(piece.encode("utf-8", "replace"))[:MAX_LINE_BYTES])]
