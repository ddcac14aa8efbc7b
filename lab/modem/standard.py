"""The commands that every simulated modem shares: ITU-T V.250 and 3GPP TS 27.007."""

from __future__ import annotations

from typing import Final

from lab.modem.cells import OPERATORS
from lab.modem.commands import After, Answer, Request
from lab.modem.dialect import Dialect, at
from lab.modem.faults import FaultKind
from lab.modem.signal import csq_code, ecno_code, rscp_code, rsrp_code, rsrq_code
from lab.modem.state import FULL_RADIO, Refused, SimLock
from wire.radio import Technology

_SCAN_S: Final = 12.0  # a scan blocks the port; real ones take 30 s to 3 minutes
_LONG, _SHORT, _NUMERIC = range(3)


class Standard(Dialect):
    """What the vendors' families build on."""

    # --- V.250

    @at("E")
    def _echo(self, request: Request) -> list[str]:
        self.state.settings.echo = request.number(0, 0) != 0
        return []

    @at("V")
    def _words(self, request: Request) -> list[str]:
        self.state.settings.words = request.number(0, 1) != 0
        return []

    @at("Z", "&F")
    def _defaults(self, _: Request) -> list[str]:
        kept = self.state.settings
        self.state.settings = self.state.default_settings()
        self.state.settings.cops_mode, self.state.settings.asked_plmn = kept.cops_mode, kept.asked_plmn
        return []

    @at("Q", "X", "L", "M", "&C", "&D", "&K", "&S", "&W", "S0", "S7", "H", "+IPR=", "+IFC=", "+ICF=", "+CMGF=")
    def _accepted(self, _: Request) -> list[str]:
        return []

    @at("I")
    def _identity(self, _: Request) -> list[str]:
        return [
            f"Manufacturer: {self.manufacturer}",
            f"Model: {self.model}",
            f"Revision: {self.revision}",
            f"IMEI: {self.state.imei}",
            "+GCAP: +CGSM",
        ]

    @at("+CGMI", "+GMI")
    def _maker(self, _: Request) -> list[str]:
        return [self.manufacturer]

    @at("+CGMM", "+GMM")
    def _model(self, _: Request) -> list[str]:
        return [self.model]

    @at("+CGMR", "+GMR")
    def _revision(self, _: Request) -> list[str]:
        return [self.revision]

    @at("+CGSN", "+GSN")
    def _serial(self, _: Request) -> list[str]:
        return [self.state.imei]

    @at("+GCAP")
    def _capabilities(self, _: Request) -> list[str]:
        return ["+GCAP: +CGSM"]

    @at("D")
    def _dial(self, request: Request) -> Answer:
        number = request.text.strip().upper().removeprefix("T")
        if not number.startswith("*99") or not number.endswith("#") or not self.state.registered:
            return Answer(final="NO CARRIER", delay_s=0.2)
        cid = int(number.removeprefix("*99").strip("*#") or 1)
        if cid not in self.state.contexts:
            return Answer(final="NO CARRIER", delay_s=0.2)
        self.state.data_up = True
        return Answer(final=self.connect, delay_s=0.1, after=After.DATA)

    @at("O")
    def _online(self, _: Request) -> Answer:
        if not self.state.data_up:
            return Answer(final="NO CARRIER")
        return Answer(final=self.connect, after=After.DATA)

    # --- SIM

    def need_sim(self) -> None:
        """Raise Refused with the cause if the SIM cannot be read."""
        if not self.state.sim_present:
            raise Refused(10)
        if self.state.functionality == 0:
            raise Refused(13)
        if self.state.sim.lock is not SimLock.READY:
            raise Refused(11 if self.state.sim.lock is SimLock.PIN else 12)

    @at("+CPIN?")
    def _pin_state(self, _: Request) -> list[str]:
        if not self.state.sim_present:
            raise Refused(10)
        if self.state.functionality == 0:
            raise Refused(13)
        return [f"+CPIN: {self.state.sim.lock.value}"]

    @at("+CPIN=")
    def _enter_pin(self, request: Request) -> list[str]:
        if not self.state.sim_present:
            raise Refused(10)
        sim = self.state.sim
        if len(request.values) == 2:  # noqa: PLR2004  # <puk>,<newpin>
            sim.enter_puk(*request.values)
        else:
            sim.enter_pin(request.values[0])
        self.state.search()
        self.say(*self.sim_lines())
        return []

    @at("+CLCK=")
    def _lock(self, request: Request) -> list[str]:
        self.need_sim()
        facility, mode = request.values[0].upper(), request.number(1)
        if facility != "SC":
            raise Refused(3)
        if mode == 2:  # noqa: PLR2004  # query
            return [f"+CLCK: {int(self.state.sim.pin_enabled)}"]
        if request.values[2] != self.state.sim.pin:
            raise Refused(16)
        self.state.sim.pin_enabled = mode == 1
        return []

    @at("+CIMI")
    def _imsi(self, _: Request) -> list[str]:
        self.need_sim()
        return [self.state.sim.imsi]

    # --- network

    @at("+CREG?", "+CGREG?", "+CEREG?")
    def _registration(self, request: Request) -> list[str]:
        mode = self.state.settings.reports[request.name]
        return [f"{request.name}: {mode},{self.location(request.name, mode)}"]

    @at("+CREG=", "+CGREG=", "+CEREG=")
    def _report_registration(self, request: Request) -> list[str]:
        mode = request.number(0)
        if mode not in {0, 1, 2}:
            raise Refused(50)
        self.state.settings.reports[request.name] = mode
        return []

    @at("+CREG=?", "+CGREG=?", "+CEREG=?")
    def _registration_modes(self, request: Request) -> list[str]:
        return [f"{request.name}: (0-2)"]

    @at("+COPS?")
    def _operator(self, _: Request) -> list[str]:
        settings, cell = self.state.settings, self.state.cell
        if not self.state.registered:
            return [f"+COPS: {settings.cops_mode}"]
        name = {_LONG: cell.long_name, _SHORT: cell.short_name, _NUMERIC: cell.plmn}[settings.cops_format]
        return [f'+COPS: {settings.cops_mode},{settings.cops_format},"{self._charset(name)}",{cell.act}']

    def _charset(self, text: str) -> str:
        return text.encode("utf-16-be").hex().upper() if self.state.settings.charset == "UCS2" else text

    @at("+COPS=")
    def _choose_operator(self, request: Request) -> Answer:
        mode, settings = request.number(0), self.state.settings
        if mode == 3:  # noqa: PLR2004  # only sets the format
            settings.cops_format = request.number(1)
            if settings.cops_format not in {_LONG, _SHORT, _NUMERIC}:
                settings.cops_format = _LONG
                raise Refused(50)
            return Answer()
        if mode not in {0, 1, 2, 4}:
            raise Refused(50)
        settings.asked_plmn = _plmn(request.values[2]) if mode in {1, 4} else None
        settings.cops_mode = mode
        self.state.search()
        return Answer(delay_s=1.0)

    @at("+COPS=?")
    def _scan(self, _: Request) -> Answer:
        if not self.state.hears_a_cell:
            raise Refused(30)
        here, entries = self.state.cell, []
        for found in OPERATORS.values():
            stat = 2 if here.plmn == found.mcc + found.mnc and self.state.registered else 1
            names = f'"{found.long_name}","{found.short_name}","{found.mcc}{found.mnc}"'
            entries += [f"({stat},{names},7)", f"(1,{names},2)"]
        return Answer([f"+COPS: {','.join(entries)},,(0,1,2,3,4),(0,1,2)"], delay_s=_SCAN_S)

    @at("+CSQ")
    def _quality(self, _: Request) -> list[str]:
        seen = self.state.signal
        return [f"+CSQ: {csq_code(seen.rssi_dbm)},99" if seen else "+CSQ: 99,99"]

    @at("+CESQ")
    def _extended_quality(self, _: Request) -> list[str]:
        seen = self.state.signal
        if seen is None:
            return ["+CESQ: 99,99,255,255,255,255"]
        if self.state.cell.technology is Technology.UMTS:
            return [f"+CESQ: 99,99,{rscp_code(seen.level_dbm)},{ecno_code(seen.quality_db)},255,255"]
        return [f"+CESQ: 99,99,255,255,{rsrq_code(seen.quality_db)},{rsrp_code(seen.level_dbm)}"]

    # --- packet data

    @at("+CGDCONT?")
    def _contexts(self, _: Request) -> list[str]:
        empty = {"IP": "0.0.0.0", "IPV6": ".".join("0" * 16), "IPV4V6": ".".join("0" * 16)}  # noqa: S104  # no address yet
        return [
            f'+CGDCONT: {cid},"{kind}","{apn}","{empty[kind]}",0,0,0,0'
            for cid, (kind, apn) in sorted(self.state.contexts.items())
        ]

    @at("+CGDCONT=")
    def _define_context(self, request: Request) -> list[str]:
        cid = request.number(0)
        if not 1 <= cid <= 16:  # noqa: PLR2004  # as many as these families have
            raise Refused(50)
        if len(request.values) == 1:
            self.state.contexts.pop(cid, None)
            return []
        kind = request.values[1].upper()
        if kind not in {"IP", "IPV6", "IPV4V6"}:
            raise Refused(50)
        self.state.contexts[cid] = (kind, request.values[2] if len(request.values) > 2 else "")  # noqa: PLR2004  # the APN
        return []

    @at("+CGATT?")
    def _is_attached(self, _: Request) -> list[str]:
        return [f"+CGATT: {int(self.state.registered)}"]

    @at("+CGATT=")
    def _attach(self, request: Request) -> Answer:
        if FaultKind.STUCK in self.state.faults:
            return Answer(final="ERROR", delay_s=1.0)
        wanted = request.number(0) == 1
        if wanted and not self.state.attached:
            self.state.search()
        self.state.attached = wanted
        return Answer(delay_s=0.5)

    @at("+CGACT?")
    def _active_contexts(self, _: Request) -> list[str]:
        up = self.state.registered
        return [f"+CGACT: {cid},{int(up and cid == 1)}" for cid in sorted(self.state.contexts)]

    @at("+CGACT=")
    def _activate(self, request: Request) -> Answer:
        if request.number(0) == 1 and not self.state.registered:
            raise Refused(30)
        return Answer(delay_s=0.2)

    # --- the modem itself

    @at("+CFUN?")
    def _functionality(self, _: Request) -> list[str]:
        return [f"+CFUN: {self.state.functionality}"]

    @at("+CFUN=")
    def _set_functionality(self, request: Request) -> Answer:
        level = request.number(0)
        if level not in {0, 1, 4}:
            raise Refused(50)
        if request.number(1, 0) == 1:
            return Answer(after=After.RESTART)
        if level == FULL_RADIO and self.state.functionality != FULL_RADIO:
            self.state.search()
        self.state.functionality = level
        return Answer(delay_s=0.3)

    @at("+CMEE?")
    def _errors(self, _: Request) -> list[str]:
        return [f"+CMEE: {self.state.settings.cmee}"]

    @at("+CMEE=")
    def _set_errors(self, request: Request) -> list[str]:
        mode = request.number(0, 0)
        if mode not in {0, 1, 2}:
            raise Refused(50)
        self.state.settings.cmee = mode
        return []

    @at("+CSCS?")
    def _character_set(self, _: Request) -> list[str]:
        return [f'+CSCS: "{self.state.settings.charset}"']

    @at("+CSCS=")
    def _set_character_set(self, request: Request) -> list[str]:
        charset = request.values[0].upper()
        if charset not in {"GSM", "IRA", "UCS2"}:
            raise Refused(50)
        self.state.settings.charset = charset
        return []


def _plmn(text: str) -> str:
    """Read an operator given by number or by name."""
    for known in OPERATORS.values():
        if text in {known.long_name, known.short_name}:
            return known.mcc + known.mnc
    return text
