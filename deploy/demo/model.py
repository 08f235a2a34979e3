"""A simulated cloud: hypervisors, VMs of tenants with the same addresses, their traffic per second, and the truth.

All that happens follows from the seed.  Each second, `Cloud.second` gives the packets of all connections as columns
(`Segments`): a number of packets, one after the other, from one VM to another.  What an exporter makes of them is in
`exporters`.  All packets of a segment lie within its second, so windows of ten seconds hold whole segments.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from deploy.demo.wire import TCP, UDP, Port

SECOND_US = 1_000_000
WINDOW_SECONDS = 10
TENANTS = ("shop", "bank", "school")
TIERS = (("web", 0.45), ("app", 0.30), ("db", 0.15), ("dns", 0.05), ("batch", 0.025), ("backup", 0.025))
FIRST_EXPORTER = int(IPv4Address("127.1.0.11"))
FIRST_TUNNEL_END = int(IPv4Address("198.51.100.11"))
FIRST_VNI = 5001
CACHE_SECONDS = 10
"""Timeout that vmflow recommends for flow caches."""
BACKUP_EVERY, BACKUP_SECONDS, REOPEN_SECONDS = 600, 60, 300
JITTER_US = 40
"""A packet takes up to so much longer than the least."""
SLOW_US = 20_000
LOSS = 0.04
SCAN_RATE = 50.0
"""Ports per second."""
MOST_RETRIES = 2
"""Retransmissions of a first packet: the first after 1 s, the second after 2 s more [RFC 6298]."""

Column = NDArray[np.int64]


class CloudError(Exception):
    """An impossible cloud; the message says why in one line."""


@dataclass
class Host:
    """A hypervisor."""

    name: str
    protocol: str
    """`sflow`, `ipfix` or `netflow5`."""
    address: int
    tunnel_end: int
    clock_us: int
    """Its clock minus the true one."""
    sampling: int
    cache_us: int
    """How long its flow cache counts before it reports, without sFlow."""
    next_port: int = 0
    """Ports assigned so far: a port number is never used again."""


@dataclass
class Vm:
    """A VM, and where it is plugged in now."""

    name: str
    tenant: int
    mac: int
    ip: int
    host: int
    port: Port = field(init=False)

    @property
    def title(self) -> str:
        return f"{TENANTS[self.tenant]}/{self.name}"

    @property
    def uuid(self) -> UUID:
        return uuid5(UUID(int=0), self.title)

    @property
    def vni(self) -> int:
        return FIRST_VNI + self.tenant


@dataclass(frozen=True)
class Trouble:
    """A fault from `start` for `length` seconds of the run."""

    name: str
    start: int
    length: int
    hosts: tuple[int, ...]
    vms: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        return self.start + self.length


TROUBLES = {
    "loss": "the link between two hosts loses 4 % of the packets, both ways",
    "slow": "the path between two hosts takes 20 ms longer, both ways",
    "scan": "a VM tries the ports of the other VMs of its network",
    "migration": "a VM moves to another host",
    "restart": "ovs-vswitchd ends and comes back: nothing is seen meanwhile, sequences and uptime begin again",
    "wrong-rate": "an sFlow agent states a sampling rate of 1, but samples as before",
    "no-polling": "an sFlow agent sends no counters",
    "blind": "an IPFIX exporter does not export what goes out to its VMs",
}
"""Name -> what happens."""


@dataclass
class Segments:
    """Packets of one second as columns: `first` + `rest` from VM `src` to VM `dst` of one connection.

    The first packet may have another length and other flags.  `got_*`: how many arrived.  Those after the first come
    `delay` µs later than by `step` if a first packet had to be sent again.
    """

    src: Column
    dst: Column
    protocol: Column
    src_port: Column
    dst_port: Column
    opens: Column
    """1: the first packet opens the connection, 2: it answers, 3: it refuses, 0: the connection was there before."""
    closes: Column
    first_length: Column
    length: Column
    first: Column
    rest: Column
    got_first: Column
    got_rest: Column
    start_us: Column
    """Time at the bridge of the sender, by the true clock."""
    step_us: Column
    delay_us: Column
    latency_us: Column

    @property
    def arrive_us(self) -> Column:
        """Return when the first packet reaches the bridge of the receiver."""
        return self.start_us + self.delay_us + self.latency_us

    @property
    def sent(self) -> tuple[Column, Column]:
        """Packets, octets."""
        return self.first + self.rest, self.first * self.first_length + self.rest * self.length

    @property
    def got(self) -> tuple[Column, Column]:
        """Packets, octets."""
        return self.got_first + self.got_rest, self.got_first * self.first_length + self.got_rest * self.length


_EDGE = np.dtype(
    [
        ("client", "i8"), ("server", "i8"), ("protocol", "i8"), ("port", "i8"), ("lasting", "i8"), ("from", "i8"),
        ("until", "i8"), ("every", "i8"), ("rate", "f8"), ("asks", "f8"), ("answers", "f8"), ("ask_length", "i8"),
        ("answer_length", "i8"), ("scan", "i8"),
    ]
)  # fmt: skip
"""Traffic between VMs.  `lasting`: one connection, `asks` and `answers` are packets per second; else `rate` connections
per second of that many packets.  Active from second `from` to `until` of each `every`."""


class Cloud:
    """The cloud at one second."""

    def __init__(
        self, seed: int, hosts: int, vms: int, traffic: float, sampling: int, cache_seconds: int = CACHE_SECONDS
    ) -> None:
        if hosts < 1 or vms < 10 * len(TENANTS):
            raise CloudError(f"expected at least 1 hypervisor and {10 * len(TENANTS)} VMs, found {hosts} and {vms}")
        if hosts > 200 or vms > 200 * len(TENANTS):
            raise CloudError(f"expected at most 200 hypervisors and {200 * len(TENANTS)} VMs, found {hosts} and {vms}")
        self.random = np.random.default_rng(seed)
        self.hosts = [self._host(number, hosts, sampling, cache_seconds) for number in range(hosts)]
        self.vms = list(self._vms(vms))
        self.edges = np.array(sorted(self._edges(traffic)), _EDGE)
        near = np.eye(hosts, dtype=bool)
        far = self.random.integers(150, 600, (hosts, hosts))
        self.base_us = np.where(near, 20, np.minimum(far, far.T))
        self.slower_us = np.zeros_like(self.base_us)
        self.loss = np.zeros((hosts, hosts))
        self.scanning = False
        self.reset = np.zeros((vms, 4), np.int64)
        """Values of a VM's counters when its port was created."""
        self.totals = np.zeros((vms, 4), np.int64)
        """Packets and octets from each VM, and to it."""

    def _host(self, number: int, hosts: int, sampling: int, cache_seconds: int) -> Host:
        last = number == hosts - 1 and hosts > 2
        protocol = "netflow5" if last else "sflow" if number < max(1, hosts // 2) else "ipfix"
        rate = sampling if protocol == "sflow" else 1
        clock = int(self.random.integers(-30, 31)) * 1000 + int(self.random.integers(1000))
        ends = FIRST_EXPORTER + number, FIRST_TUNNEL_END + number
        return Host(f"hv{number + 1}", protocol, *ends, clock, rate, cache_seconds * SECOND_US)

    def _vms(self, count: int) -> Iterator[Vm]:
        for tenant in range(len(TENANTS)):
            size = count // len(TENANTS) + (tenant < count % len(TENANTS))
            tiers = [tier for tier, share in TIERS[1:] for _ in range(max(1, round(size * share)))]
            tiers = [TIERS[0][0]] * (size - len(tiers)) + tiers
            places = self.random.permutation(size) + tenant
            seen: dict[str, int] = defaultdict(int)
            for number, tier in enumerate(tiers):
                seen[tier] += 1
                mac = 0x525400_000000 | (tenant + 1) << 16 | number + 1
                ip = int(IPv4Address("10.0.0.10")) + number
                vm = Vm(f"{tier}-{seen[tier]}", tenant, mac, ip, int(places[number]) % len(self.hosts))
                self.plug(vm, vm.host)
                yield vm

    def plug(self, vm: Vm, host: int) -> None:
        """Give a VM a new port on a host."""
        place = self.hosts[host]
        number = place.next_port
        place.next_port += 1
        vm.host = host
        vm.port = Port(f"vnet{number}", 10 + number, 3 + number, 0x2A64_0000_0000 | host + 1)

    def _edges(self, traffic: float) -> Iterator[tuple[Any, ...]]:
        always = (0, 1, 1)
        for tenant in range(len(TENANTS)):
            of: dict[str, list[int]] = defaultdict(list)
            for number, vm in enumerate(self.vms):
                if vm.tenant == tenant:
                    of[vm.name.partition("-")[0]].append(number)
            for web in of["web"]:
                for app in self._some(of["app"], 2):
                    rate = traffic * self.random.uniform(0.4, 1.6)
                    yield (web, app, TCP, 8080, 0, *always, rate, 6, 12, 320, 1100, 0)
            for app in of["app"]:
                for db in self._some(of["db"], 2):
                    asks = traffic * self.random.uniform(15, 60)
                    yield (app, db, TCP, 5432, 1, *always, 0, asks, asks * 1.4, 210, 760, 0)
            for batch in of["batch"]:
                for db in self._some(of["db"], 1):
                    yield (batch, db, TCP, 5432, 1, *always, 0, 700 * traffic, 1500 * traffic, 66, 1514, 0)
            for number, db in enumerate(of["db"]):
                start = 20 + number * 75 % (BACKUP_EVERY - BACKUP_SECONDS)
                when = (start, start + BACKUP_SECONDS, BACKUP_EVERY)
                backup = of["backup"][number % len(of["backup"])]
                yield (db, backup, TCP, 873, 1, *when, 0, 900 * traffic, 450 * traffic, 1514, 66, 0)
            for number in (number for tier in ("web", "app", "db") for number in of[tier]):
                yield (number, self._some(of["dns"], 1)[0], UDP, 53, 0, *always, 0.25 * traffic, 1, 1, 82, 140, 0)
            others = [number for tier in of.values() for number in tier if number != of["web"][0]]
            for number in others if tenant == len(TENANTS) - 1 else ():
                yield (of["web"][0], number, TCP, 0, 0, *always, SCAN_RATE / len(others), 1, 1, 74, 54, 1)

    def _some(self, numbers: list[int], count: int) -> list[int]:
        return sorted(self.random.choice(numbers, min(count, len(numbers)), replace=False).tolist())

    @property
    def scanner(self) -> int:
        return int(self.edges["client"][self.edges["scan"] == 1][0])

    def places(self) -> Column:
        """Return the host of each VM."""
        return np.array([vm.host for vm in self.vms])

    def pairs(self, trouble: Trouble) -> list[tuple[int, int]]:
        """Return client and server of the connections that a trouble affects."""
        places, edges = self.places(), self.edges[(self.edges["scan"] == 1) == (trouble.name == "scan")]
        found = []
        for pair in sorted(zip(edges["client"].tolist(), edges["server"].tolist(), strict=True)):
            hosts = {int(places[number]) for number in pair}
            if trouble.name in ("loss", "slow"):
                concerned = hosts == set(trouble.hosts)
            else:
                concerned = not set(trouble.vms or trouble.hosts).isdisjoint(pair if trouble.vms else hosts)
            if concerned:
                found.append(pair)
        return found

    def second(self, number: int, start_us: int, busy: float) -> Segments:
        """Return the packets of second `number` of the run, which begins at `start_us`; `busy` is 1 at peak hour."""
        edges = self.edges
        active = (number % edges["every"] >= edges["from"]) & (number % edges["every"] < edges["until"])
        edges = edges[active & ((edges["scan"] == 0) | self.scanning)]
        level = np.where((edges["scan"] == 1) | (edges["every"] > 1), 1.0, busy)
        connections = np.where(edges["lasting"] == 1, 1, self.random.poisson(edges["rate"] * level))
        level, edges = np.repeat(level, connections), np.repeat(edges, connections)
        count = len(edges)
        lasting, scan, tcp = edges["lasting"] == 1, edges["scan"] == 1, edges["protocol"] == TCP
        age = number - edges["from"] if count else np.zeros(0, np.int64)
        stagger = (edges["client"] * 37 + edges["server"] * 101) % REOPEN_SECONDS
        epoch, opened = np.divmod(age + np.where(edges["every"] > 1, 0, stagger), np.where(lasting, REOPEN_SECONDS, 1))
        new = ~lasting | (opened == 0) | (number % edges["every"] == edges["from"]) & (edges["every"] > 1)
        port = np.where(lasting, epoch * 7 + stagger * 11, self.random.integers(0, 28_000, count)) % 28_000 + 32_768
        server_port = np.where(scan, self.random.integers(1, 10_000, count), edges["port"])
        spread = tcp & ~scan
        base = np.where(lasting | ~spread, 0, 3)
        level = np.where(lasting, level, 1.0)
        asks = self.random.poisson(np.where(spread, edges["asks"] * level, 0)) + base + ~spread
        answers = self.random.poisson(np.where(spread, edges["answers"] * level, 0)) + base + ~spread
        asks, answers = np.maximum(asks, new), np.maximum(answers, new)
        begin = start_us + self.random.integers(0, np.where(lasting, 50_000, 600_000), count)
        duration = np.where(lasting, 800_000, self.random.integers(2_000, 200_000, count))
        ones, opens = np.ones(count, np.int64), new & tcp
        columns = {"protocol": edges["protocol"], "closes": ~lasting & spread}
        forth = self._segments(
            columns | {"src": edges["client"], "dst": edges["server"], "src_port": port, "dst_port": server_port},
            packets=asks, opens=opens * ones, lengths=(np.where(opens, 74, edges["ask_length"]), edges["ask_length"]),
            begin=begin, duration=duration,
        )  # fmt: skip
        turn = self.random.integers(40, 160, count)
        back = self._segments(
            columns | {"src": edges["server"], "dst": edges["client"], "src_port": server_port, "dst_port": port},
            packets=np.where((forth.got_first + forth.got_rest > 0) | lasting, answers, 0),
            opens=opens * np.where(scan, 3, 2),
            lengths=(np.where(opens & ~scan, 74, edges["answer_length"]), edges["answer_length"]),
            begin=forth.arrive_us + turn, duration=duration,
        )  # fmt: skip
        both = {name: np.concatenate([getattr(forth, name), getattr(back, name)]) for name in vars(forth)}
        some = both["first"] + both["rest"] > 0
        segments = Segments(**{name: column[some] for name, column in both.items()})
        self._count(segments)
        return segments

    def _segments(
        self, columns: dict[str, Column], packets: Column, opens: Column, lengths: tuple[Column, Column],
        begin: Column, duration: Column,
    ) -> Segments:  # fmt: skip
        """Return one direction of the connections, with losses of the links.  TCP retransmits what was lost."""
        places = self.places()
        ends = places[columns["src"]], places[columns["dst"]]
        loss, latency = self.loss[ends], self.base_us[ends] + self.slower_us[ends]
        latency = latency + self.random.integers(0, JITTER_US, len(loss))
        first = np.minimum(packets, 1)
        rest = packets - first
        tcp = columns["protocol"] == TCP
        retries = np.where(tcp & (first > 0), self.random.geometric(1 - loss) - 1, 0)
        retries = np.minimum(retries, MOST_RETRIES)
        again = np.where(tcp & (rest > 0), self.random.negative_binomial(np.maximum(rest, 1), 1 - loss), 0)
        lost_first = np.where(tcp, 0, self.random.binomial(first, loss))
        lost_rest = np.where(tcp, 0, self.random.binomial(rest, loss))
        return Segments(
            **{name: np.asarray(column, np.int64) for name, column in columns.items()},
            opens=opens, first_length=lengths[0], length=lengths[1],
            first=first + retries, rest=rest + again, got_first=first - lost_first, got_rest=rest - lost_rest,
            start_us=begin, step_us=duration // np.maximum(first + retries + rest + again, 1),
            delay_us=np.where(opens > 0, (2**retries - 1) * SECOND_US, 0), latency_us=latency,
        )  # fmt: skip

    def _count(self, segments: Segments) -> None:
        for column, (end, values) in enumerate(
            [*((segments.src, part) for part in segments.sent), *((segments.dst, part) for part in segments.got)]
        ):
            self.totals[:, column] += np.bincount(end, values, len(self.vms)).astype(np.int64)

    def counters(self, vm: int) -> tuple[int, ...]:
        """Return packets and octets that the VM sent, and that it received, since its port was created."""
        return tuple((self.totals[vm] - self.reset[vm]).tolist())

    def change(self, trouble: Trouble, *, begins: bool) -> None:
        """Apply a trouble to the network and the VMs; what it does to exporters is in `exporters`."""
        on = int(begins)
        if trouble.name in ("loss", "slow"):
            one, other = trouble.hosts
            column, value = (self.loss, LOSS) if trouble.name == "loss" else (self.slower_us, SLOW_US)
            column[[one, other], [other, one]] = value * on
        elif trouble.name == "scan":
            self.scanning = begins
        elif trouble.name == "migration" and begins:
            number = trouble.vms[0]
            self.plug(self.vms[number], trouble.hosts[1])
            self.reset[number] = self.totals[number]


def plan(cloud: Cloud, wishes: list[tuple[str, int, int]]) -> list[Trouble]:
    """Place each trouble (name, start, length) in the cloud.  Raises CloudError if the cloud has no place for it."""
    of = {name: [n for n, host in enumerate(cloud.hosts) if host.protocol == name] for name in ("sflow", "ipfix")}
    exact = of["ipfix"] if len(of["ipfix"]) > 1 else list(range(len(cloud.hosts)))
    movers = [
        n for tier in ("app", "web") for n, vm in enumerate(cloud.vms) if vm.host == 0 and vm.name.startswith(tier)
    ]
    found = []
    for name, start, length in wishes:
        vms: tuple[int, ...] = ()
        hosts: tuple[int, ...] = ()
        if name in ("loss", "slow") and len(exact) > 1:
            hosts = (exact[0], exact[1]) if name == "loss" else (exact[-2], exact[-1])
        elif name == "scan":
            vms = (cloud.scanner,)
            hosts = (cloud.vms[cloud.scanner].host,)
        elif name == "migration" and len(cloud.hosts) > 1 and movers:
            hosts, vms = (0, 1), (movers.pop(0),)
        elif name == "restart":
            hosts = tuple(part[0] for part in of.values() if part)
        elif name in ("wrong-rate", "no-polling") and of["sflow"]:
            hosts = (of["sflow"][-1 if name == "wrong-rate" else len(of["sflow"]) // 2],)
        elif name == "blind" and of["ipfix"]:
            hosts = (of["ipfix"][-1],)
        if not hosts:
            raise CloudError(f"trouble {name} needs more hypervisors than {len(cloud.hosts)}")
        found.append(Trouble(name, start, length, hosts, vms))
    return sorted(found, key=lambda trouble: (trouble.start, trouble.name))


def busy(second_of_day: float) -> float:
    """Return the relative load at this time of the day (UTC): 1 at 15:00, 0.2 at 3:00."""
    return 0.6 - 0.4 * math.cos((second_of_day / 3600 - 3) / 24 * math.tau)


COLUMNS = (
    "mac", "ips", "vm", "vm_uuid", "project", "host", "network", "vni", "port_name", "if_index", "of_port", "bridge",
    "kind",
)  # fmt: skip


def inventory(cloud: Cloud, path: Path) -> None:
    """Write the current inventory in one step: as CSV, or as TOML, which also has the addresses of the exporters."""
    rows = [
        {
            "mac": ":".join(f"{octet:02x}" for octet in vm.mac.to_bytes(6, "big")), "ips": str(IPv4Address(vm.ip)),
            "vm": vm.name, "vm_uuid": str(vm.uuid), "project": TENANTS[vm.tenant], "host": cloud.hosts[vm.host].name,
            "network": f"{TENANTS[vm.tenant]}-net", "vni": vm.vni, "port_name": vm.port.name,
            "if_index": vm.port.if_index, "of_port": vm.port.of_port, "bridge": "br-int", "kind": "vm",
        }
        for vm in cloud.vms
    ]  # fmt: skip
    rows += [
        {"host": host.name, "port_name": "vxlan0", "of_port": 1, "bridge": "br-int", "kind": "tunnel"}
        for host in cloud.hosts
    ]
    text = io.StringIO()
    if path.suffix == ".toml":
        for row in rows:
            given = {key: [value] if key == "ips" else value for key, value in row.items()}
            text.write("[[interface]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in given.items()))
        for host in cloud.hosts:
            text.write(f'[[host]]\nname = "{host.name}"\naddresses = ["{IPv4Address(host.address)}"]\n')
    else:
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text.getvalue())
    os.replace(beside, path)


def _toml(value: object) -> str:
    return repr(value).replace("'", '"')
