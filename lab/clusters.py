"""Engines that carry more than one machine, as Debian has them: a NATS cluster as broker, vmagent before two stores.

Configurations are those of docs/scale.md, on loopback. Each node is a `lab.servers.Server`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lab.servers import Server, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from collector.fleet import Right


class Peer(NamedTuple):
    """One node of a NATS cluster: its name and its ports for MQTT, for NATS clients and for the other nodes."""

    name: str
    mqtt_port: int
    client_port: int
    route_port: int


def peers(count: int) -> list[Peer]:
    """Plan a cluster on free ports of this machine."""
    return [Peer(f"n{number}", free_port(), free_port(), free_port()) for number in range(1, count + 1)]


class Nats(Server):
    """One node of a cluster that speaks MQTT 3.1.1 and keeps every message on a majority of its nodes (JetStream)."""

    program = "nats-server"
    debian_package = "nats-server"

    def __init__(
        self, data_dir: Path, me: Peer, cluster: Sequence[Peer], users: Mapping[str, str], rights: Sequence[Right]
    ) -> None:
        """Plan a node; `rights` come from the site list."""
        super().__init__(data_dir, port=me.mqtt_port)
        self._me = me
        self._cluster = cluster
        self.users = users
        self._rights = rights

    def configure(self) -> list[str]:
        """Write nats.conf. A topic's slashes are dots in a subject, its plus a star."""
        routes = ", ".join(f'"nats://127.0.0.1:{peer.route_port}"' for peer in self._cluster)
        users = "\n".join(
            f'    {{user: "{right.user}", password: "{self.users[right.user]}", permissions: {{'
            f' publish: [{_subjects(right.writes)}], subscribe: [{_subjects(right.reads)}, "$MQTT.sub.>"] }} }}'
            for right in self._rights
        )
        config = self.data_dir / "nats.conf"
        config.touch(mode=0o600)
        config.write_text(f"""\
server_name: {self._me.name}
listen: 127.0.0.1:{self._me.client_port}
jetstream {{ store_dir: "{self.data_dir}/jetstream", max_mem: 64M, max_file: 1G }}
mqtt {{ listen: 127.0.0.1:{self.port}, stream_replicas: {len(self._cluster)} }}
cluster {{ name: probefleet, listen: 127.0.0.1:{self._me.route_port}, routes: [{routes}] }}
authorization {{
  users: [
{users}
  ]
}}
""")
        return ["-c", str(config)]


class Vmagent(Server):
    """Takes line protocol and hands every point to each of several stores; what one of them misses waits on disk."""

    program = "vmagent"
    debian_package = "victoria-metrics"
    ready_path = "/health"

    def __init__(self, data_dir: Path, stores: Sequence[str]) -> None:
        """Plan an agent before these stores (URLs)."""
        super().__init__(data_dir)
        self._stores = stores

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://{self.host}:{self.port}"

    def configure(self) -> list[str]:
        """Keep what a store misses under data_dir."""
        return [
            f"-httpListenAddr={self.host}:{self.port}",
            f"-remoteWrite.tmpDataPath={self.data_dir}/waiting",
            "-remoteWrite.flushInterval=1s",
            "-loggerLevel=WARN",
            *(f"-remoteWrite.url={store}/api/v1/write" for store in self._stores),
        ]


def _subjects(topics: Sequence[str]) -> str:
    return ", ".join(f'"{topic.replace("/", ".").replace("+", "*")}"' for topic in topics)
