"""Naming flows: rows a second of the join alone, and what it adds to decoding, with inventories of several sizes."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from uuid import UUID

from bench import traffic
from collector.inventory.history import History
from collector.inventory.naming import Namer, warm_up
from collector.inventory.snapshot import build
from collector.inventory.sources.base import Host, Interface, Rank
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder

INTERFACES = (1_000, 10_000, 100_000)
KINDS = ("ipfix", "netflow5")
DATAGRAMS = 2_000
ROUNDS = 9
EXPORTERS = 16


def inventory(count: int) -> tuple[tuple[Interface, ...], tuple[Host, ...]]:
    """`count` interfaces with the MACs and addresses of `bench.traffic`, spread over as many hosts as exporters."""
    interfaces = tuple(
        Interface(
            host=f"host-{n % EXPORTERS}",
            port_name=f"vnet{n // EXPORTERS}",
            if_index=10 + n // EXPORTERS,
            mac=0x5254_0000_0000 + n,
            vm=f"vm-{n:06}",
            vm_uuid=UUID(int=n + 1),
            project=f"project-{n % 100}",
            network=f"network-{n % 300}",
            ips=(IPv4Address((10 << 24) + n),),
        )
        for n in range(count)
    )
    return interfaces, tuple(Host(name=f"host-{n}", addresses=(IPv4Address(f"127.9.0.{n}"),)) for n in range(EXPORTERS))


def measure(kind: str, count: int) -> str:
    """One line: time to take in the inventory, rate of the join, its share of decoding and naming together."""
    history = History(capacity=2 * count, history_us=3_600_000_000, short_names=True)
    interfaces, hosts = inventory(count)
    began = time.perf_counter()
    history.apply("static", Rank.STATIC, interfaces, hosts, at_us=1)
    applied = time.perf_counter()
    snapshot = build(history.columns, history.addresses())
    built = time.perf_counter()
    namer = Namer(3_600_000_000, 3_000_000)
    namer.snapshot = snapshot
    decoder = Decoder()
    decode_seconds, name_seconds, rows = [], [], 0
    for turn in range(ROUNDS):
        datagrams = [
            (payload, f"127.9.0.{exporter}", 2055, traffic.TIME * 1_000_000)
            for exporter in range(EXPORTERS)
            for payload in traffic.payloads(kind, exporter, DATAGRAMS // EXPORTERS, turn * DATAGRAMS, vms=count)
        ]
        batch = Datagrams.of(datagrams)
        start = time.perf_counter()
        flows = decoder.decode(batch).flows
        decoded = time.perf_counter()
        for part in flows:
            namer.flows(part)
        name_seconds.append(time.perf_counter() - decoded)
        decode_seconds.append(decoded - start)
        rows = sum(part.num_rows for part in flows)
    decode_time, name_time = sorted(decode_seconds)[ROUNDS // 2], sorted(name_seconds)[ROUNDS // 2]
    named = namer.totals[0, 0] / namer.totals[:, 0].sum()
    return (
        f"{kind:9} {count:7} interfaces: taken in {applied - began:5.2f} s, "
        f"snapshot {1e3 * (built - applied):5.1f} ms, "
        f"join {rows / name_time / 1e6:5.1f} M rows/s, decode {rows / decode_time / 1e6:5.1f} M rows/s, "
        f"ends named {100 * named:.1f} %"
    )


def main() -> list[str]:
    """Measure all; returns the lines of the report."""
    Decoder().warm_up()
    warm_up()
    return [measure(kind, count) for kind in KINDS for count in INTERFACES]
