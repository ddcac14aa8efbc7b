"""A HiLink stick over HTTP, through the library: a small server answers as the sticks' pages do."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from agent.measurements.base import MeasurementFailed
from agent.modem import hilink
from agent.modem.errors import CommandRefused, ModemTimeout
from agent.modems import SerialModems
from agent.settings import Balance, Link, Sms
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("huawei_lte_api", reason="NOT SHOWN: the extra hilink (huawei-lte-api) is not installed")

# An E3372h-320 on LTE band 3, with the fields that its pages have (huawei-lte-api's documentation names the pages).
STICK = {
    "/api/monitoring/status": "<SimStatus>1</SimStatus><ServiceStatus>2</ServiceStatus><RoamingStatus>0</RoamingStatus>"
    "<CurrentNetworkType>19</CurrentNetworkType><CurrentNetworkTypeEx>101</CurrentNetworkTypeEx>"
    "<SignalIcon>4</SignalIcon>",
    "/api/pin/status": "<SimState>257</SimState><PinOptState>258</PinOptState><SimPinTimes>3</SimPinTimes>",
    "/api/device/signal": "<pci>248</pci><sc></sc><cell_id>25968141</cell_id><rsrq>-11dB</rsrq><rsrp>-97dBm</rsrp>"
    "<rssi>-66dBm</rssi><sinr>12dB</sinr><rscp></rscp><ecio></ecio><mode>7</mode><band>3</band><tac>24101</tac>"
    "<dlbandwidth>20MHz</dlbandwidth><ulbandwidth>20MHz</ulbandwidth><earfcn>DL:1350 UL:19350</earfcn>",
    "/api/net/current-plmn": "<State>0</State><FullName>Viettel</FullName><ShortName>Viettel</ShortName>"
    "<Numeric>45204</Numeric><Rat>7</Rat>",
    "/api/device/information": "<DeviceName>E3372h-320</DeviceName><Imei>001015000000000</Imei>"
    "<Iccid>8984040000000000001</Iccid><HardwareVersion>CL5E3372HM</HardwareVersion>",
    "/api/webserver/SesTokInfo": "<SesInfo>SessionID=x</SesInfo><TokInfo>y</TokInfo>",
}


@pytest.fixture
def stick() -> Iterator[Callable[..., str]]:
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def make(
        *,
        heard: list[tuple[str, str]] | None = None,
        reactions: dict[str, dict[str, str]] | None = None,
        **changes: str,
    ) -> str:
        heard = heard if heard is not None else []
        reactions = reactions or {}
        pages = {
            **STICK,
            **{f"/api/{page.replace('__', '/').replace('_plmn', '-plmn')}": text for page, text in changes.items()},
        }

        class Pages(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = pages.get(self.path)
                text = (
                    body
                    if body and body.startswith("<error>")
                    else f"<response>{body}</response>"
                    if body
                    else "<error><code>100002</code><message></message></error>"
                )
                data = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/xml" if self.path.startswith("/api") else "text/html")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
                heard.append((self.path, asked))
                pages.update(reactions.get(self.path, {}))
                self.path = f"{self.path}?answer"
                pages.setdefault(self.path, "<Count>0</Count>" if "list" in self.path else "OK")
                self.do_GET()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield make
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_stick_tells_its_radio_with_units(stick: Callable[..., str]) -> None:
    reading, model, iccid_sha256 = hilink.look(stick())
    assert model == "E3372h-320"
    assert iccid_sha256 is not None
    assert len(iccid_sha256) == 64
    assert reading == RadioReading(
        registration=Registration.HOME,
        technology=Technology.LTE,
        operator="Viettel",
        mcc="452",
        mnc="04",
        tac=24101,
        cell_id=25968141,
        enodeb_id=101438,
        pci=248,
        earfcn=1350,
        band=3,
        bandwidth_mhz=20.0,
        rsrp_dbm=-97.0,
        rsrq_db=-11.0,
        sinr_db=12.0,
        rssi_dbm=-66.0,
    )


def test_the_link_in_agent_yaml_names_the_address(stick: Callable[..., str]) -> None:
    link = Link(name="viettel", interface="eth1", modem=stick())
    assert SerialModems().look(link).reading.rsrp_dbm == -97.0


def test_a_stick_without_service_has_no_figures_and_no_zeros(stick: Callable[..., str]) -> None:
    reading, *_ = hilink.look(
        stick(
            monitoring__status="<SimStatus>1</SimStatus><ServiceStatus>0</ServiceStatus>"
            "<CurrentNetworkType>0</CurrentNetworkType><CurrentNetworkTypeEx></CurrentNetworkTypeEx>",
            device__signal="<pci></pci><cell_id></cell_id><rsrq></rsrq><rsrp></rsrp><rssi></rssi><sinr></sinr>",
            net__current_plmn="<State>1</State><FullName></FullName><Numeric></Numeric>",
        )
    )
    assert reading.registration is Registration.SEARCHING
    assert (reading.technology, reading.rsrp_dbm, reading.cell_id) == (None, None, None)


@pytest.mark.parametrize(
    ("page", "text", "reason"),
    [
        ("monitoring__status", "<SimStatus>255</SimStatus><ServiceStatus>0</ServiceStatus>", Reason.SIM_ABSENT),
        ("pin__status", "<SimState>260</SimState>", Reason.SIM_LOCKED),
        ("pin__status", "<SimState>261</SimState>", Reason.SIM_LOCKED),
        ("device__signal", "", Reason.MODEM_ERROR),
    ],
)
def test_what_is_wrong_becomes_a_reason(stick: Callable[..., str], page: str, text: str, reason: Reason) -> None:
    link = Link(name="viettel", interface="eth1", modem=stick(**{page: text}))
    with pytest.raises(MeasurementFailed) as failure:
        SerialModems().look(link)
    assert failure.value.reason is reason


def test_no_stick_says_so() -> None:
    with pytest.raises(MeasurementFailed, match="no stick answers there") as failure:
        SerialModems().look(Link(name="viettel", interface="eth1", modem="http://127.0.0.1:9/"))
    assert failure.value.reason is Reason.NO_MODEM


def test_the_operator_is_asked_by_ussd_over_http(stick: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hilink, "_LOOK_EVERY_S", 0.02)
    heard: list[tuple[str, str]] = []
    said = "<content>Còn lại 1.500 MB</content>"
    address = stick(heard=heard, reactions={"/api/ussd/send": {"/api/ussd/get": said}})
    link = Link(name="viettel", interface="eth1", modem=address)
    assert SerialModems().ask_operator(link, Balance(ussd="*102#")) == "Còn lại 1.500 MB"
    ((page, asked),) = heard
    assert page == "/api/ussd/send"
    assert "<content>*102#</content>" in asked


@pytest.mark.parametrize(
    "answer",
    ["<content>Con lai & 3 GB</content>", "<content>Con lai 3 GB", "text"],
)
def test_an_answer_that_is_no_xml_is_an_error_of_the_modem(
    stick: Callable[..., str], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(hilink, "_LOOK_EVERY_S", 0.02)
    with pytest.raises(CommandRefused, match="cannot be read"):
        hilink.ussd(stick(ussd__get=answer), "*102#")


def test_an_operator_who_says_nothing_over_http_is_a_silence(
    stick: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hilink, "_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(hilink, "_ANSWER_S", 0.2)
    busy = "<error><code>111019</code><message></message></error>"
    for page in ("<content></content>", busy):
        address = stick(ussd__get=page)
        with pytest.raises(ModemTimeout, match=r"did not answer \*102#"):
            hilink.ussd(address, "*102#")


def test_a_message_is_sent_over_http_and_the_answer_taken_out_of_the_stick(
    stick: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hilink, "_LOOK_EVERY_S", 0.02)
    heard: list[tuple[str, str]] = []

    def box(*messages: tuple[int, str, str]) -> str:
        inner = "".join(
            f"<Message><Smstat>0</Smstat><Index>{n}</Index><Phone>{who}</Phone><Content>{text}</Content></Message>"
            for n, who, text in messages
        )
        return f"<Count>{len(messages)}</Count><Messages>{inner}</Messages>"

    full = box((40001, "+191", "Con lai"), (40002, "+191", "700 MB"), (40003, "+84900000001", "Chuc mung"))
    address = stick(heard=heard, reactions={"/api/sms/send-sms": {"/api/sms/sms-list?answer": full}})
    link = Link(name="viettel", interface="eth1", modem=address)
    assert SerialModems().ask_operator(link, Balance(sms=Sms(number="191", text="KTDL"))) == "Con lai 700 MB"
    assert [page.rpartition("/")[2] for page, _ in heard] == ["sms-list", "send-sms", "sms-list", *["delete-sms"] * 2]
    assert "<Phone>191</Phone>" in heard[1][1]
