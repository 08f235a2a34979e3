"""A store that holds one capture as two protocols report it, and what the VMs' kernels say was sent.

The capture has two hypervisors and no sampling, so each packet between them is in four rows, and sums must be exact.
Beside it, made up: a pair that loses a known share of its packets, and one whose connections are refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any
from uuid import UUID

from clickhouse_connect.driver import Client

from collector.analyze.figures import read_due, store_window
from collector.store.settings import StoreSettings
from tests.decoders.support import mac
from tests.flow_rows import BEGIN_US, HOSTS, add, flow, named, nic, polls, store, truth_of, vm

STEM = "ovs_sflow_exact_s1"
PROJECTS = {"a1": "shop", "a2": "shop", "b1": "bank", "b2": "bank"}
LOST, SENT, REFUSED = 10, 100, 40
"""Of the made-up pairs: packets that c sends to d and that do not arrive, and those of e to f, which refuses them."""
OCTETS = 100
"""Of each made-up packet."""


def true_packets() -> dict[tuple[str, str], int]:
    """Packets that each VM sent to each other one: those of the capture from the counters of the VMs' NICs alone.

    What a2 sends to a1 on its own hypervisor was dropped there, since it is tagged (fixtures/pcaps/README.md).
    """
    sent = {name: nic(STEM, name, "tx")["packets"] for name in ("a1", "a2", "b1")}
    got = {name: nic(STEM, name, "rx")["packets"] for name in ("a1", "a2", "b1")}
    from_a2 = got["b1"] - sent["a1"]
    return {
        ("a1", "b1"): sent["a1"], ("b1", "a1"): got["a1"], ("b1", "a2"): got["a2"], ("a2", "b1"): from_a2,
        ("a2", "a1"): sent["a2"] - from_a2, ("c", "d"): SENT, ("e", "f"): REFUSED,
    }  # fmt: skip


def true_bytes(*senders: str) -> int:
    """Octets of layer 3 that these VMs sent, or all of them: what NICs count, less Ethernet and 802.1Q headers."""
    made_up = {"c": SENT * OCTETS, "e": REFUSED * OCTETS}
    total = 0
    for name in senders or ("a1", "a2", "b1", "c", "e"):
        if name in made_up:
            total += made_up[name]
            continue
        counted = nic(STEM, name, "tx")
        tagged = true_packets()["a2", "a1"] if name == "a2" else 0
        total += counted["bytes"] - 14 * counted["packets"] - 4 * tagged
    return total


def span() -> tuple[float, float]:
    """Begin and end of what the store holds, whole windows of an hour, in seconds since 1970."""
    last = max(row["time_received"] for row in named(STEM))
    return BEGIN_US / 1e6, last // 3_600_000_000 * 3600 + 3600


@contextmanager
def filled(directory: Path, database: str) -> Iterator[Client]:
    """A store with the capture, its counters, its inventory, a latency, a report, a gap and an alert."""
    begin_us = int(span()[0]) * 1_000_000
    with store(StoreSettings(url=f"chdb://{directory}", database=database)) as client:
        c, d, e, f = vm("c"), vm("d", "host-2"), vm("e"), vm("f", "host-2")
        lossy = [flow(c, d, "source", received=5)] * SENT + [flow(c, d, "destination", received=5)] * (SENT - LOST)
        refused = [
            flow(e, f, seen, received=5, ip_protocol=6, tcp_flags=2, src_port=port)
            for seen in ("source", "destination")
            for port in range(REFUSED)
        ]
        rows = [*named(STEM), *lossy, *refused, flow(c, d, "transit", received=5)]
        add(client, rows)
        add(client, [{**row, "protocol": "ipfix"} for row in rows])
        add(client, polls(STEM), "interface_counters")
        add(client, list(_inventory(begin_us)), "inventory")
        first = next(row for row in rows if (row["src_vm"], row["dst_vm"], row["sighting"]) == ("a1", "b1", "source"))
        ends = {key: value for key, value in first.items() if key.startswith(("src_vm", "dst_vm", "network"))}
        window = {"time": first["time_received"] // 60_000_000 * 60_000_000, "interval_us": 60_000_000}
        add(client, [ends | window | {"latency_us": 900, "spread_us": 5, "samples": 3, "method": "one_way"}], "latency")
        probe = {"sent": 10, "received": 9, "lost": 1, "lost_forward": 1, "lost_reverse": 0, "round_trips": 9}
        probe |= {f"rtt_{name}_us": 100.0 for name in ("min", "median", "p99", "max")}
        add(client, [window | probe | {"agent": "hv1", "src_host": "host-a", "dst_host": "host-b"}], "probes")
        report = {"time": window["time"] + 20_000_000, "interval_us": 10_000_000, "protocol": "sflow5"}
        add(
            client,
            [
                report | {"exporter": IPv6Address(f"::ffff:{address}").packed, "datagrams": 9, "records": 90,
                          "export_lost": 1, "findings": "no_counters" if name == "host-b" else ""}
                for address, name in HOSTS.items()
            ],
            "exporters",
        )  # fmt: skip
        add(client, [{"begins": begin_us + 1_801_000_000, "ends": begin_us + 1_805_000_000, "reason": "away"}], "gaps")
        at = datetime.fromtimestamp(begin_us / 1e6 + 2, UTC)
        alert = {
            "time": at, "alert_id": "3f2a91c0", "fingerprint": "f", "rule": "pair_loss", "severity": "critical",
            "scope": "pair", "labels": {"src_vm": "a1", "dst_vm": "b1"}, "value": 0.04, "low": 0.03, "high": 0.05,
            "unit": "ratio",
        }  # fmt: skip
        for table, more in (
            ("alert_events", {"event": "firing"}),
            ("alerts", {"version": 1, "status": "firing", "since": at, "summary": "a1 → b1"}),
        ):
            row: dict[str, Any] = alert | more
            client.insert(table, [list(row.values())], column_names=list(row))
        begin, end = (int(edge) for edge in span())
        for level in ("1m", "1h"):
            for due in read_due(client, level, {"begin": begin, "end": end}):
                store_window(client, level, due, 1, 1)
        yield client


def _inventory(begin_us: int) -> Iterator[dict[str, Any]]:
    for address, card in truth_of(STEM)["nic_counters"].items():
        yield {
            "valid_from": begin_us - 1, "valid_to": time.time_ns() // 1000, "open": 1, "mac": mac(card["mac"]),
            "vm": card["vm"], "vm_uuid": UUID(card["uuid"]).bytes, "host": card["host"], "port_name": address,
            "project": PROJECTS.get(card["vm"], "other"), "network": f"tenant-{card['tag']}",
        }  # fmt: skip
