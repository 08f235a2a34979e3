"""Captures for tests of latency and the doctor: both ends named by MAC and port, as collector/inventory does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

from clickhouse_connect.driver import Client

from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from tests.decoders.support import address, mac, payloads, rows
from tests.flow_rows import HOSTS, NOBODY, add, ends, truth_of

SECOND_US = 1_000_000
WINDOW_US = 10 * SECOND_US

BASE_US = (time.time_ns() // 1000 // WINDOW_US - 90) * WINDOW_US
"""A quarter of an hour ago, at the begin of a window: rows of the day of a capture would expire.

The view `reconciliation` looks back for 65 minutes, and a run imports this module long before its last test.
"""

TIMES = ("time_received", "flow_start", "flow_end")


@dataclass(frozen=True)
class Export:
    """What is in a capture, moved so that it begins 1 to 2 s behind BASE_US."""

    flows: tuple[dict[str, Any], ...]
    counters: tuple[dict[str, Any], ...]

    @property
    def start_us(self) -> int:
        """First receipt."""
        return min(int(row["time_received"]) for row in self.flows)

    @property
    def end_us(self) -> int:
        """The first window that begins behind the last receipt."""
        last = max(int(row["time_received"]) for row in (*self.flows, *self.counters))
        return (last // WINDOW_US + 1) * WINDOW_US


def shift_us(stem: str) -> int:
    """What is added to all times: whole seconds, for the resolution of the exporter's clock must stay as it is."""
    return (BASE_US - payloads(stem)[0][3]) // SECOND_US * SECOND_US + 2 * SECOND_US


@cache
def export(stem: str) -> Export:
    """Decode a capture of the lab and name the ends of its flows."""
    datagrams = payloads(stem)
    shift = shift_us(stem)
    decoded = Decoder().decode(Datagrams.of(datagrams))
    flows, counters = rows(decoded.flows), rows(decoded.counters)
    for row in (*flows, *counters):
        row.update({column: row[column] + shift for column in TIMES if column in row})
    vms = {mac(card["mac"]): card for card in truth_of(stem)["nic_counters"].values()} if names_of(stem) else {}
    for row in flows:
        source, destination = (vms.get(row[column], NOBODY) for column in ("src_mac", "dst_mac"))
        row.update(ends(source, destination))
        row["sighting"] = sighting(row, source, destination)
    return Export(tuple(flows), tuple(counters))


def names_of(stem: str) -> bool:
    """Whether the capture's truth names VMs."""
    return "nic_counters" in truth_of(stem)


def sighting(row: dict[str, Any], source: dict[str, Any], destination: dict[str, Any]) -> str:
    """From where an IPFIX record saw a packet: by the ports it names."""
    host = next((name for text, name in HOSTS.items() if address(text) == row["exporter"]), "?")
    sent = row["direction"] != "egress" and (host, row["in_if_name"]) == (source["host"], source.get("port"))
    delivered = (host, row["out_if_name"]) == (destination["host"], destination.get("port"))
    known = bool(source["vm"] and destination["vm"])
    names = {(True, True): "both", (True, False): "source", (False, True): "destination"}
    return names.get((sent, delivered), "transit" if known else "external")


def heard(client: Client, at_us: int, *exporters: str, **columns: Any) -> None:
    """Say in table `exporters` that these were heard at that time."""
    row = {"time": at_us, "interval_us": WINDOW_US, "protocol": "ipfix", "datagrams": 1} | columns
    add(client, [row | {"exporter": address(exporter)} for exporter in exporters], "exporters")
