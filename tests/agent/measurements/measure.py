"""Runs one measurement where it is started (in a network namespace, say): a JSON task on stdin, JSON on stdout."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from agent import path as paths
from agent import resolver
from agent.measurements import capacity, dns, latency, ping, throughput, throughput_options, trace, web
from agent.measurements.base import MeasurementFailed
from agent.measurements.link_watch import on_link
from wire.results import Server

if TYPE_CHECKING:
    from agent.path import LinkPath


def _ping(path: LinkPath, task: dict[str, Any]) -> object:
    return ping.run(path, task["host"], msgspec.convert(task["options"], ping.PingOptions))


def _dns(path: LinkPath, task: dict[str, Any]) -> object:
    return dns.run(path, msgspec.convert(task["options"], dns.DnsOptions))


def _web(path: LinkPath, task: dict[str, Any]) -> object:
    return web.run(path, msgspec.convert(task["options"], web.WebOptions, dec_hook=lambda kind, text: kind(text)))


def _trace(path: LinkPath, task: dict[str, Any]) -> object:
    return trace.trace(path, task["host"], msgspec.convert(task["options"], trace.TraceOptions))


def _resolve(path: LinkPath, task: dict[str, Any]) -> object:
    return [resolver.resolve(path, host, timeout_s=task.get("timeout_s", 10.0)) for host in task["hosts"]]


SERVICES = {"ping": _ping, "dns": _dns, "web": _web, "trace": _trace, "resolve": _resolve}


def main() -> None:
    logging.basicConfig(stream=sys.stderr)
    task = json.load(sys.stdin)
    if task.get("impatient"):  # the same with shorter waits; tests of the deadline keep the real ones
        throughput.RECEIVE_TIMEOUT_S = 2  # type: ignore[misc]  # final for everybody else
        throughput_options.WIND_UP_S = 1.5  # type: ignore[misc]  # as above
    path = msgspec.structs.replace(paths.look(task["interface"]), resolvers=tuple(task.get("resolvers", ())))
    begun_s = time.monotonic()
    answer: dict[str, object] = {}
    try:
        if task["measurement"] in SERVICES:
            with on_link(path):
                answer |= {task["measurement"]: SERVICES[task["measurement"]](path, task)}
        elif task["measurement"] == "latency":
            options = msgspec.convert(task["options"], latency.LatencyOptions)
            answer["latency"] = latency.run(path, task["host"], options)
        elif task["measurement"] == "capacity":
            how = msgspec.convert(task["options"], capacity.CapacityOptions)
            server = Server(host=task["host"], ports=tuple(task["ports"]))
            terms = throughput.Terms(left_bytes=task.get("left_bytes"), last_mbps=task.get("last_mbps"))
            answer["capacity"] = capacity.run(path, server, how, terms)
        elif "servers" in task:
            options_ = msgspec.convert(task["options"], throughput.ThroughputOptions)
            servers = msgspec.convert(task["servers"], tuple[Server, ...])
            measured, server = throughput.run_in_turn(path, servers, options_, patience_s=task["patience_s"])
            answer |= {**measured._asdict(), "server": server}
        else:
            server = Server(host=task["host"], ports=tuple(task["ports"]))
            options_ = msgspec.convert(task["options"], throughput.ThroughputOptions)
            terms = throughput.Terms(left_bytes=task.get("left_bytes"), irtt_port=task.get("irtt_port"))
            measured = throughput.run(path, server, options_, terms)
            answer |= measured._asdict()
    except MeasurementFailed as failure:
        answer["failed"] = {"reason": failure.reason, "detail": failure.detail, "begun": failure.begun}
        if failure.pace_bytes_per_s is not None:
            answer["pace_bytes_per_s"] = failure.pace_bytes_per_s
    answer["elapsed_s"] = time.monotonic() - begun_s
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
