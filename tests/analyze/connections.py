"""Connections made up with known latency and known clocks, as Open vSwitch IPFIX rows of two switches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from uuid import UUID, uuid5

from tests.decoders.support import address

SECOND_US = 1_000_000
_ports = count(32_768)


@dataclass(frozen=True)
class Path:
    """Two VMs behind two switches, and what a packet meets on its way."""

    up_us: int
    """From the client's switch to the server's."""
    down_us: int
    """From the server's switch to the client's."""
    offset_us: int = 0
    """Clock of the server's host − clock of the client's (which is right)."""
    server_us: int = 0
    """From the server's switch into the VM and back."""
    resolution_us: int = 1
    """Both clocks are cut to multiples of this."""
    client: str = "a"
    server: str = "b"
    client_exporter: str = "192.0.2.11"
    server_exporter: str = "192.0.2.12"
    scale: int = 1
    """The exporters' sampling rate: what they multiply counts by."""
    held_us: int = 0
    """How long the exporters' caches hold records back."""

    def connection(self, begin_us: int, *, lost_syn: int = 0, **columns: Any) -> list[dict[str, Any]]:
        """Records of a connection whose SYN passes the client's switch at `begin_us`, by the right clock.

        `lost_syn` SYNs get lost on the wire first: the client sends again after 1 s, 2 s, 4 s.
        """
        arrives = begin_us + (2**lost_syn - 1) * SECOND_US + self.up_us
        answer = arrives + self.server_us
        back = answer + self.down_us
        tuple_ = {"ip_protocol": 6, **ports(next(_ports), 443)}
        return [
            self._record(tuple_, "client", "source", begin_us, columns),
            self._record(tuple_, "server", "transit", arrives, columns),
            self._record(tuple_, "server", "destination", arrives, columns | {"direction": "egress"}),
            self._record(tuple_, "server", "source", answer, columns, answering=True),
            self._record(tuple_, "client", "transit", back, columns, answering=True),
            self._record(tuple_, "client", "destination", back, columns | {"direction": "egress"}, answering=True),
        ]

    def datagrams(self, begin_us: int) -> list[dict[str, Any]]:
        """Records of a UDP flow from the client to the server that nobody answers."""
        tuple_ = {"ip_protocol": 17, **ports(next(_ports), 53)}
        return [
            self._record(tuple_, "client", "source", begin_us, {}),
            self._record(tuple_, "server", "transit", begin_us + self.up_us, {}),
            self._record(tuple_, "server", "destination", begin_us + self.up_us, {"direction": "egress"}),
        ]

    def _record(
        self,
        tuple_: dict[str, int],
        where: str,
        sighting: str,
        true_us: int,
        columns: dict[str, Any],
        *,
        answering: bool = False,
    ) -> dict[str, Any]:
        clock = true_us + (self.offset_us if where == "server" else 0)
        start = clock - clock % self.resolution_us
        source, destination = (self.server, self.client) if answering else (self.client, self.server)
        row = {
            "time_received": true_us + self.held_us + 500,
            "exporter": address(self.client_exporter if where == "client" else self.server_exporter),
            "protocol": "ipfix",
            "flow_start": start,
            "flow_end": start,
            "packets": self.scale,
            "bytes": 60 * self.scale,
            "sampling_rate": 1,
            "direction": "ingress",
            "in_if_name": "vnet1" if sighting == "source" else "vxlan0",
            "sighting": sighting,
            "ip_protocol": tuple_["ip_protocol"],
            "src_port": tuple_["server" if answering else "client"],
            "dst_port": tuple_["client" if answering else "server"],
            "src_vm": source,
            "dst_vm": destination,
            "src_vm_uuid": uuid(source),
            "dst_vm_uuid": uuid(destination),
            "src_ip": address(ip(source)),
            "dst_ip": address(ip(destination)),
        }
        return row | columns

    def later(self, **changes: Any) -> Path:
        """The same path after a change."""
        return replace(self, **changes)


def ports(client: int, server: int) -> dict[str, int]:
    """The two ports of a connection."""
    return {"client": client % 65_536, "server": server}


def uuid(vm: str) -> bytes:
    """A UUID of its own for each name."""
    return uuid5(UUID(int=0), vm).bytes


def ip(vm: str) -> str:
    """An address of its own for each name that ends in a number, or is one letter."""
    digits = "".join(sign for sign in vm if sign.isdigit())
    return f"10.{ord(vm[0]) % 256}.{int(digits or 0) // 256}.{int(digits or 0) % 256}"


def every(step_us: int, begin_us: int, many: int) -> Iterator[int]:
    """`many` times, `step_us` apart."""
    return iter(range(begin_us, begin_us + step_us * many, step_us))
