"""A past for the simulated cloud: days of flow records with their own times, written into a store within minutes.

    python -m deploy.demo.history --config demo.toml --days 3

Each pair has one record a minute at each switch that sees it, in place of one for each connection: volumes are those of
the same cloud at that time of the day, but of connections there is one a minute.  Rows go through the sums of the
product, so `flows` and all rollups agree.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver

from collector.rollup.groups import as_input
from collector.rollup.sums import PairSums
from collector.settings import InvalidSettingsError, load
from collector.store.client import open_client
from collector.store.errors import StoreError
from collector.store.native import insert
from collector.store.setup import set_up
from deploy.demo import cloud as live
from deploy.demo.model import JITTER_US, REOPEN_SECONDS, SECOND_US, TCP, TENANTS, Cloud, CloudError, Column, busy
from deploy.demo.wire import VXLAN_BYTES
from schemas.column import ENUM
from schemas.flows import FLOWS
from schemas.latency import LATENCY
from schemas.rollups import PAIR_INPUT

HOUR, STEP = 3600, 60
"""Seconds of one insert, and of one record."""
MOST_DAYS = 60
ONE_WAY_ERROR_US = 1000
"""Of a latency: Open vSwitch's clock has whole milliseconds."""
PROTOCOLS = {"sflow": "sflow5", "ipfix": "ipfix", "netflow5": "netflow5"}
RATES = {"sflow": "record", "ipfix": "override", "netflow5": "header"}
MAX_SUMS, MAX_CONNECTIONS = 2**20, 2**21
HANDSHAKE, FIRST_LENGTH = 3, 74
"""Packets of a short TCP connection that carry no data, and bytes of the one that opens it."""


class Traffic(NamedTuple):
    """Packets from one VM to another in each minute, as columns [minutes × directions]."""

    second: Column
    src: Column
    dst: Column
    protocol: Column
    src_port: Column
    dst_port: Column
    packets: Column
    octets: Column
    """Of whole frames."""


def traffic(cloud: Cloud, start: int, seed: int) -> Traffic:
    """Return what the VMs send in the hour that begins then, without trouble."""
    random = np.random.default_rng([seed, start])
    edges = cloud.edges[cloud.edges["scan"] == 0]
    seconds = np.arange(0, HOUR, STEP)
    # Backups last a part of some minutes.
    at = np.arange(HOUR)[:, None] % edges["every"]
    active = ((at >= edges["from"]) & (at < edges["until"])).reshape(len(seconds), STEP, -1).sum(axis=1)
    level = np.array([busy((start + second) % 86_400) for second in seconds])[:, None]
    level = np.where(edges["every"] > 1, 1.0, level)
    lasting, tcp = edges["lasting"] == 1, edges["protocol"] == TCP
    opened = np.where(lasting, 0, random.poisson(edges["rate"] * level * active))
    parts = []
    for client, server, ports, count, length in (
        ("client", "server", False, "asks", "ask_length"),
        ("server", "client", True, "answers", "answer_length"),
    ):
        data = random.poisson(np.where(lasting, edges[count] * level * active, np.where(tcp, edges[count] * opened, 0)))
        bare = opened * np.where(tcp, HANDSHAKE, 1)
        octets = np.where(tcp, bare * FIRST_LENGTH, bare * edges[length]) + data * edges[length]
        port = 32_768 + (edges["client"] * 101 + edges["server"] * 7) % 28_000 + seconds[:, None] // REOPEN_SECONDS
        here, there = (edges["port"] + 0 * port, port) if ports else (port, edges["port"] + 0 * port)
        columns = (seconds[:, None] + start, edges[client], edges[server], edges["protocol"], here, there,
                   bare + data, octets)  # fmt: skip
        parts.append([np.broadcast_to(column, active.shape).ravel() for column in columns])
    whole = [np.concatenate(both) for both in zip(*parts, strict=True)]
    some = whole[6] > 0
    return Traffic(*(column[some].astype(np.int64) for column in whole))


def flows(cloud: Cloud, start: int, seed: int) -> pa.RecordBatch:
    """Return the rows of `flows` of an hour: what each exporter would have reported, named."""
    random = np.random.default_rng([seed, start, 1])
    seen = traffic(cloud, start, seed)
    places = cloud.places()
    here, there = places[seen.src], places[seen.dst]
    parts = [
        rows(cloud, seen, np.flatnonzero(here != there), here, "source", random),
        rows(cloud, seen, np.flatnonzero(here != there), there, "destination", random),
        rows(cloud, seen, np.flatnonzero(here == there), here, "both", random),
    ]
    return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]


def rows(
    cloud: Cloud, seen: Traffic, picked: Column, places: Column, sighting: str, random: np.random.Generator
) -> pa.RecordBatch:
    """Return the rows of what these hosts see: sampled for sFlow, exact for the others."""
    host = places[picked]
    kinds = np.array([one.protocol for one in cloud.hosts])[host]
    rate = np.array([one.sampling for one in cloud.hosts])[host]
    samples = random.binomial(seen.packets[picked], 1 / rate)
    picked, host, kinds, rate, samples = (column[samples > 0] for column in (picked, host, kinds, rate, samples))
    frames = np.where(rate > 1, samples * seen.octets[picked] // seen.packets[picked], seen.octets[picked])
    v5 = kinds == "netflow5"
    octets = np.where(v5, frames + (sighting == "source") * samples * VXLAN_BYTES, frames - 14 * samples)
    start_us = seen.second[picked] * SECOND_US
    vms = cloud.vms
    columns: dict[str, Any] = {
        "time_received": start_us + STEP * SECOND_US, "flow_start": start_us, "flow_end": start_us + STEP * SECOND_US,
        "packets": samples, "samples": np.where(rate > 1, samples, 1), "sampling_rate": rate, "bytes": octets,
        "frame_bytes": np.where(v5, 0, frames), "ether_type": np.full(len(picked), 0x0800), "domain": host + 1,
        "ip_protocol": seen.protocol[picked], "src_port": seen.src_port[picked], "dst_port": seen.dst_port[picked],
        "tcp_flags": np.where(seen.protocol[picked] == TCP, 16, 0),
        "vni": np.array([vm.vni for vm in vms])[seen.src[picked]],
    }  # fmt: skip
    addresses = [mapped(one.address) for one in cloud.hosts]
    texts: dict[str, tuple[list[Any], Column]] = {
        "exporter": (addresses, host),
        "protocol": ([PROTOCOLS[one.protocol] for one in cloud.hosts], host),
        "rate_source": ([RATES[one.protocol] for one in cloud.hosts], host),
        "sighting": ([sighting], np.zeros_like(host)),
    }
    for end, number in (("src", seen.src[picked]), ("dst", seen.dst[picked])):
        columns[f"{end}_mac"] = np.array([vm.mac for vm in vms])[number]
        texts |= {
            f"{end}_ip": ([mapped(vm.ip) for vm in vms], number),
            f"{end}_vm": ([vm.name for vm in vms], number),
            f"{end}_vm_uuid": ([vm.uuid.bytes for vm in vms], number),
            f"{end}_project": ([TENANTS[vm.tenant] for vm in vms], number),
            f"{end}_host": ([cloud.hosts[vm.host].name for vm in vms], number),
        }
    texts["network"] = [f"{TENANTS[vm.tenant]}-net" for vm in vms], seen.src[picked]
    return batch(len(picked), columns, texts)


def batch(count: int, columns: dict[str, Any], texts: dict[str, tuple[list[Any], Column]]) -> pa.RecordBatch:
    """Return rows of `flows`; what is not given is missing."""
    arrays = []
    for column in FLOWS.stored:
        kind = column.arrow
        if column.name in columns:
            arrays.append(pa.array(columns[column.name]).cast(kind, safe=False))
            continue
        values, codes = texts.get(column.name, ([column.nothing], np.zeros(count, np.int64)))
        if kind == ENUM:
            numbers = np.array([column.code(value) for value in values], np.int8)[codes]
            arrays.append(pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(column.names, pa.string())))
        elif pa.types.is_dictionary(kind):
            given = pa.array(values, kind.value_type)
            arrays.append(pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), given))
        else:
            arrays.append(pa.array(values, kind).take(pa.array(codes)))
    return pa.RecordBatch.from_arrays(arrays, schema=FLOWS.arrow())


def latencies(cloud: Cloud, start: int, seed: int) -> pa.RecordBatch:
    """Return a reading a minute of each pair between two hypervisors with IPFIX, as true as the product's own."""
    random = np.random.default_rng([seed, start, 2])
    edges = cloud.edges[(cloud.edges["scan"] == 0) & (cloud.edges["every"] == 1)]
    made: list[dict[str, Any]] = []
    for one, other in zip(edges["client"].tolist(), edges["server"].tolist(), strict=True):
        for src, dst in ((cloud.vms[one], cloud.vms[other]), (cloud.vms[other], cloud.vms[one])):
            hosts = cloud.hosts[src.host], cloud.hosts[dst.host]
            if src.host == dst.host or any(host.protocol != "ipfix" for host in hosts):
                continue
            names = {
                f"{end}_{what}": value
                for end, vm, host in zip(("src", "dst"), (src, dst), hosts, strict=True)
                for what, value in (
                    ("vm", vm.name), ("vm_uuid", vm.uuid.bytes), ("project", TENANTS[vm.tenant]), ("host", host.name),
                    ("exporter", mapped(host.address)),
                )
            }  # fmt: skip
            names |= {"network": f"{TENANTS[src.tenant]}-net", "method": "one_way", "trip": "one_way"}
            names |= {"interval_us": STEP * SECOND_US, "samples": 1, "spread_us": ONE_WAY_ERROR_US, "clock": "bounded"}
            true_us = int(cloud.base_us[src.host, dst.host]) + JITTER_US // 2
            for second in range(0, HOUR, STEP):
                read_us = true_us + int(random.integers(-ONE_WAY_ERROR_US // 2, ONE_WAY_ERROR_US // 2))
                made.append(names | {"time": (start + second) * SECOND_US, "latency_us": read_us})
    columns = {
        column.name: [row.get(column.name, None if column.nullable else column.nothing) for row in made]
        for column in LATENCY.stored
    }
    return LATENCY.batch(columns)


def mapped(address: int) -> bytes:
    """Return an IPv4 address as columns have it."""
    return IPv6Address(0xFFFF_0000_0000 | address).packed


def write(client: Client, cloud: Cloud, seed: int, hours: Iterable[int]) -> Iterator[int]:
    """Write hours, given by their begin in seconds since 1970; yields the rows of each.  An hour of the same cloud
    is stored once.  Raises CloudError, and the driver's errors."""
    sums = PairSums(MAX_SUMS, MAX_CONNECTIONS, key=seed)
    for start in hours:
        made = flows(cloud, start, seed)
        token = f"history-{seed}-{len(cloud.vms)}-{start}"
        if sums.add(made) is not None:
            raise CloudError("an hour has more sums than there is room for: fewer VMs, please")
        insert(client, FLOWS, [made], token)
        insert(client, PAIR_INPUT, [as_input(sums.take())], token)
        insert(client, LATENCY, [latencies(cloud, start, seed)], token)
        yield made.num_rows


def parser() -> argparse.ArgumentParser:
    """Parse the command line."""
    about = "Days of the cloud's past, written into the store of a service that does not run meanwhile."
    made = argparse.ArgumentParser("python -m deploy.demo.history", description=about)
    made.add_argument("--config", type=Path, metavar="FILE", required=True, help="settings of the service")
    made.add_argument("--days", type=int, default=3, metavar="N", help=f"1 to {MOST_DAYS}; default: %(default)s")
    made.add_argument("--end", metavar="TIME", help="ISO time in UTC, cut to whole hours (default: now)")
    for name, default in (("seed", 1), ("hypervisors", 8), ("vms", 120), ("sampling", 64)):
        made.add_argument(f"--{name}", type=int, default=default, metavar="N", help="as of the cloud")
    made.add_argument("--traffic", type=float, default=1.0, metavar="X", help="as of the cloud")
    made.set_defaults(cache=1, seconds=None, speed=1.0)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command.  Returns the exit code: 0 done, 1 on failure, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    begun, count, hours = time.monotonic(), 0, 0
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not 1 <= options.days <= MOST_DAYS:
            raise CloudError(f"expected --days 1 to {MOST_DAYS}, found {options.days}")
        live.check(options)
        last = datetime.fromisoformat(options.end).replace(tzinfo=UTC) if options.end else datetime.now(UTC)
        end = int(last.timestamp()) // HOUR * HOUR
        settings, cloud = load(options.config), live.made(options)
        with open_client(settings.store) as client:
            set_up(client, settings.store)
            for made in write(client, cloud, options.seed, range(end - options.days * 24 * HOUR, end, HOUR)):
                count, hours = count + made, hours + 1
                if sys.stderr.isatty():
                    print(f"\r{hours} of {options.days * 24} hours", end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        return 130
    except (CloudError, InvalidSettingsError, StoreError, driver.Error, ValueError, OSError) as error:
        print(f"history: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"{count} rows of {hours} hours, {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
