"""What Open vSwitch on each hypervisor exports of the packets that it sees, by its own clock.

sFlow: each packet is sampled at random where it enters the bridge, from its VM or from the tunnel.  IPFIX: every packet
is counted in a flow cache for `Host.cache_us`, as it comes in, and as it goes out to a VM of this host.  NetFlow v5:
each flow of the datapath, reported every `Host.cache_us` and when it is idle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from deploy.demo import wire
from deploy.demo.model import SECOND_US, Cloud, Column, Host, Segments, Trouble, Vm
from deploy.demo.wire import Packet, Tunnel

IDLE_US = 10 * SECOND_US
TEMPLATES_US = 60 * SECOND_US
POLLING_SECONDS = 10
UPTIME_US = 3600 * SECOND_US
"""Uptime of the daemon when the run begins."""
FIRST_PORT = 40_000
OUTPUT_TUNNEL, OUTPUT_SEVERAL = 1, 0x80000001
"""The tunnel as an OpenFlow port, and as an sFlow output: one port without ifIndex."""
ACTIVE_TIMEOUT, FORCED_END = 2, 4
"""Why a record ends [RFC 7012, flowEndReason]."""
FIRST_FLAGS = (0, wire.SYN, wire.SYN | wire.ACK, wire.RST | wire.ACK)

Key = tuple[str | int, ...]


class Event(NamedTuple):
    """A datagram."""

    time_us: int
    """Time by the true clock."""
    host: int
    port: int
    """Source port."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Sight:
    """A segment as one host sees it."""

    src: Vm
    dst: Vm
    here: bool
    """True if the packets come from a VM of this host; else they come from the tunnel."""
    tunnel: Tunnel | None
    """The tunnel that they come from, or go into."""
    protocol: int
    src_port: int
    dst_port: int
    opens: int
    closes: int
    first_length: int
    length: int
    first: int
    rest: int
    start_us: int
    step_us: int

    @property
    def delivered(self) -> bool:
        """True if they go out to a VM of this host."""
        return not (self.here and self.tunnel)

    @property
    def flow(self) -> Key:
        return self.src.title, self.dst.title, self.protocol, self.src_port, self.dst_port

    @property
    def packets(self) -> int:
        return self.first + self.rest

    @property
    def octets(self) -> int:
        return self.first * self.first_length + self.rest * self.length

    @property
    def end_us(self) -> int:
        return self.time_us(self.packets - 1)

    def time_us(self, number: int) -> int:
        """Return when a packet passes, by the true clock."""
        return self.start_us + number * self.step_us

    def packet(self, number: int = 0) -> Packet:
        """Return one of the packets."""
        src, dst, first = self.src, self.dst, number < self.first
        return Packet(
            src.mac, dst.mac, src.ip, dst.ip, self.protocol, self.src_port, self.dst_port,
            self.first_length if first else self.length, self.flags(number), number,
        )  # fmt: skip

    def flags(self, number: int) -> int:
        """Return the TCP flags of one of the packets."""
        if self.protocol != wire.TCP:
            return 0
        if number < self.first and self.opens:
            return FIRST_FLAGS[self.opens]
        return wire.ACK | (wire.FIN if self.closes and number == self.packets - 1 else 0)

    @property
    def all_flags(self) -> int:
        return self.flags(0) | (self.flags(self.first) if self.rest else 0) | self.flags(self.packets - 1)


class Exporter(ABC):
    """The exporter of one host."""

    destination = 0
    """Usual UDP port of collectors."""

    def __init__(self, number: int, cloud: Cloud, seed: int, start_us: int) -> None:
        self.number = number
        self.cloud = cloud
        self.random = np.random.default_rng([seed, number])
        self.port = FIRST_PORT + number * 100
        self.down_until_us = 0
        self.later: list[Sight] = []
        """What passes in seconds to come: packets after a first one that was sent again."""
        self.begin(start_us)

    @property
    def host(self) -> Host:
        return self.cloud.hosts[self.number]

    @abstractmethod
    def begin(self, now_us: int) -> None:
        """Begin with empty state and all sequences at their start."""

    @abstractmethod
    def second(self, sights: list[Sight], start_us: int) -> Iterator[Event]:
        """Yield what is sent in a second, given all that is seen in it."""

    def stop(self, now_us: int) -> Iterator[Event]:
        """Yield what is sent when the exporter is removed."""
        yield from ()

    def change(self, trouble: Trouble, now_us: int, *, begins: bool) -> Iterator[Event]:
        """Apply a trouble to this exporter, as it begins and ends.  A change of settings restarts it."""
        if trouble.name == "restart" and begins:
            self.restart(now_us)
            self.down_until_us = now_us + trouble.length * SECOND_US
        yield from ()

    def restart(self, now_us: int) -> None:
        """Restart, from another source port."""
        self.port += 1
        self.begin(now_us)

    def run(self, segments: Segments, start_us: int) -> Iterator[Event]:
        """Run one second."""
        sights = [*self.later, *self.sights(segments)]
        self.later = [sight for sight in sights if sight.start_us >= start_us + SECOND_US]
        if start_us >= self.down_until_us:
            yield from self.second([sight for sight in sights if sight.start_us < start_us + SECOND_US], start_us)

    def sights(self, segments: Segments) -> list[Sight]:
        """Return what passes this host; packets that wait for a first one, which is sent again, by themselves."""
        places = self.cloud.places()
        src, dst = places[segments.src], places[segments.dst]
        first, rest, late = segments.first, segments.rest, segments.delay_us > 0
        at_us, arrive_us, nothing = segments.start_us, segments.arrive_us, np.zeros_like(first)
        leaves = src == self.number
        comes = (dst == self.number) & (src != dst) & (segments.got_first + segments.got_rest > 0)
        found: list[Sight] = []
        for here, where, *columns in (
            (True, leaves, first, np.where(late, 0, rest), at_us),
            (True, leaves & late & (rest > 0), nothing, rest, at_us + segments.delay_us),
            (False, comes, segments.got_first, segments.got_rest, arrive_us),
        ):
            found += self._sights(segments, np.flatnonzero(where), here, (*columns, segments.step_us))
        return found

    def _sights(self, segments: Segments, picked: Column, here: bool, columns: tuple[Column, ...]) -> Iterator[Sight]:
        names = ("src", "dst", "protocol", "src_port", "dst_port", "opens", "closes", "first_length", "length")
        chosen = [column[picked].tolist() for column in (*(getattr(segments, name) for name in names), *columns)]
        for a, b, protocol, port, *values in zip(*chosen, strict=True):
            one, other = self.cloud.vms[a], self.cloud.vms[b]
            tunnel = self.tunnel(one, other, port) if one.host != other.host else None
            yield Sight(one, other, here, tunnel, protocol, port, *values)

    def tunnel(self, src: Vm, dst: Vm, port: int) -> Tunnel:
        """Return the encapsulation between the hosts of two VMs."""
        hosts = self.cloud.hosts
        number = 32_768 + (port * 31 + src.ip * 7 + dst.mac) % 28_000
        return Tunnel(hosts[src.host].tunnel_end, hosts[dst.host].tunnel_end, number, src.vni)


class Sflow(Exporter):
    """An sFlow agent."""

    destination = 6343

    def __init__(self, number: int, cloud: Cloud, seed: int, start_us: int) -> None:
        self.polling = POLLING_SECONDS
        self.stated = cloud.hosts[number].sampling
        super().__init__(number, cloud, seed, start_us)

    def begin(self, now_us: int) -> None:
        self.begun_us = now_us
        self.sequence = self.samples = 0
        self.polls: Counter[int] = Counter()
        self.waiting: list[tuple[int, int, Sight, int]] = []
        """Samples of packets that pass later: time, order, sight, number of the packet."""

    def change(self, trouble: Trouble, now_us: int, *, begins: bool) -> Iterator[Event]:
        yield from super().change(trouble, now_us, begins=begins)
        if trouble.name == "wrong-rate":
            self.stated = 1 if begins else self.host.sampling
            self.restart(now_us)
        elif trouble.name == "no-polling":
            self.polling = 0 if begins else POLLING_SECONDS
            self.restart(now_us)

    def second(self, sights: list[Sight], start_us: int) -> Iterator[Event]:
        end_us = start_us + SECOND_US
        packets = np.array([sight.packets for sight in sights], np.int64)
        ends = np.cumsum(packets)
        hits = np.flatnonzero(self.random.random(int(packets.sum())) * self.host.sampling < 1)
        of = np.searchsorted(ends, hits, "right")
        for order, (index, number) in enumerate(zip(of.tolist(), (hits - (ends - packets)[of]).tolist(), strict=True)):
            self.waiting.append((sights[index].time_us(number), order, sights[index], number))
        self.waiting.sort(key=lambda item: item[:2])
        due = [item for item in self.waiting if item[0] < end_us]
        del self.waiting[: len(due)]
        samples: list[bytes] = []
        sampled = ((time_us, self._sample(sight, number)) for time_us, _, sight, number in due)
        polled = ((end_us - 1, sample) for sample in self._polled(start_us // SECOND_US))
        for time_us, sample in chain(sampled, polled):
            if sum(map(len, samples)) + len(sample) > wire.SFLOW_BYTES - 28:
                yield self._datagram(time_us, samples)
                samples = []
            samples.append(sample)
        if samples:
            yield self._datagram(end_us - 1, samples)

    def _sample(self, sight: Sight, number: int) -> bytes:
        self.samples += 1
        from_, into = (None, sight.tunnel) if sight.here else (sight.tunnel, None)
        inward = sight.src.port.if_index if sight.here else 0
        outward = OUTPUT_SEVERAL if into else sight.dst.port.if_index
        return wire.sflow_sample(self.samples, self.stated, inward, outward, sight.packet(number), from_, into)

    def _polled(self, second: int) -> Iterator[bytes]:
        """Yield counters of the ports whose turn it is; that of a host's first port is the last second of a window."""
        if not self.polling:
            return
        for number, vm in enumerate(self.cloud.vms):
            if vm.host == self.number and (vm.port.of_port + second) % self.polling == 2:
                self.polls[vm.port.if_index] += 1
                counts = self.cloud.counters(number)
                yield wire.sflow_counters(
                    self.polls[vm.port.if_index], vm.port, (counts[0], counts[1]), (counts[2], counts[3])
                )
        if second % self.polling == 0:
            self.polls[0] += 1
            yield wire.sflow_datapath(self.polls[0], self.samples * self.host.sampling, self.samples)

    def _datagram(self, time_us: int, samples: list[bytes]) -> Event:
        self.sequence += 1
        uptime = (time_us - self.begun_us) // SECOND_US * 1000
        return Event(
            time_us, self.number, self.port,
            wire.sflow_datagram(self.host.address, self.sequence, uptime & 0xFFFFFFFF, samples),
        )  # fmt: skip


@dataclass(slots=True)
class Flow:
    """An entry of a flow cache."""

    sight: Sight
    output: bool
    begin_us: int
    start_us: int
    end_us: int
    packets: int = 0
    octets: int = 0
    squares: int = 0
    least: int = 65_535
    most: int = 0
    flags: int = 0

    def add(self, sight: Sight) -> None:
        """Count the packets of a segment."""
        self.start_us = min(self.start_us, sight.start_us)
        self.end_us = max(self.end_us, sight.end_us)
        self.packets += sight.packets
        self.octets += sight.octets
        for packets, length in ((sight.first, sight.first_length), (sight.rest, sight.length)):
            if packets:
                self.squares += packets * (length - 14) ** 2
                self.least, self.most = min(self.least, length), max(self.most, length)
        self.flags |= sight.all_flags


class Ipfix(Exporter):
    """IPFIX of a bridge, unsampled, with input and output records."""

    destination = 4739
    outputs = True

    def begin(self, now_us: int) -> None:
        self.cache: dict[Key, Flow] = {}
        self.sequence = 1
        self.total = (0, 0)
        self.templates_us = 0

    def change(self, trouble: Trouble, now_us: int, *, begins: bool) -> Iterator[Event]:
        yield from super().change(trouble, now_us, begins=begins)
        if trouble.name == "blind":
            yield from self.stop(now_us)
            self.outputs = not begins
            self.restart(now_us)

    def second(self, sights: list[Sight], start_us: int) -> Iterator[Event]:
        limit = start_us + SECOND_US - self.host.cache_us
        old = sorted(((flow.start_us, key) for key, flow in self.cache.items() if flow.start_us < limit))
        for begun_us, key in old:
            yield from self._record(self.cache.pop(key), max(start_us, begun_us + self.host.cache_us), ACTIVE_TIMEOUT)
        for sight in sights:
            for output in (False, True) if sight.delivered and self.outputs else (False,):
                key = (*sight.flow, sight.here, output)
                flow = self.cache.get(key)
                if flow is None:
                    flow = self.cache[key] = Flow(sight, output, sight.start_us, sight.start_us, 0)
                flow.add(sight)

    def stop(self, now_us: int) -> Iterator[Event]:
        for flow in self.cache.values():
            yield from self._record(flow, now_us, FORCED_END)
        self.cache.clear()

    def _record(self, flow: Flow, time_us: int, reason: int) -> Iterator[Event]:
        now_us = time_us + self.host.clock_us
        domain = self.number + 1
        if time_us >= self.templates_us + TEMPLATES_US:
            self.templates_us = time_us
            for payload in wire.ipfix_start(now_us // SECOND_US + 1, self.sequence, domain):
                yield Event(time_us, self.number, self.port, payload)
            self.sequence += 1
        sight = flow.sight
        key = wire.ipfix_key(
            sight.packet(),
            sight.src.port if sight.here else None,
            sight.dst.port if flow.output else None,
            sight.tunnel if not sight.here and not flow.output else None,
        )
        start, end = ((when + self.host.clock_us) // 1000 * 1000 for when in (flow.start_us, flow.end_us))
        counts = wire.Counts(start, end, flow.packets, flow.octets, flow.squares, flow.least, flow.most)
        self.total = (self.total[0] + flow.packets, self.total[1] + flow.octets)
        payload = wire.ipfix_record(key, counts, self.total, reason, now_us, self.sequence, domain)
        self.sequence += 1
        yield Event(time_us, self.number, self.port, payload)


class Netflow5(Exporter):
    """NetFlow v5 of a bridge."""

    destination = 2055

    def __init__(self, number: int, cloud: Cloud, seed: int, start_us: int) -> None:
        super().__init__(number, cloud, seed, start_us - UPTIME_US)

    def begin(self, now_us: int) -> None:
        self.booted_us = now_us
        self.cache: dict[Key, Flow] = {}
        self.records = 0

    def second(self, sights: list[Sight], start_us: int) -> Iterator[Event]:
        for sight in sights:
            key = (*sight.flow, sight.here)
            flow = self.cache.get(key)
            if flow is None:
                flow = self.cache[key] = Flow(sight, False, sight.start_us, sight.start_us, 0)
            flow.add(sight)
        end_us = start_us + SECOND_US
        resting = [key for key, flow in self.cache.items() if flow.end_us < end_us - IDLE_US]
        long = [flow for flow in self.cache.values() if flow.packets and flow.begin_us < end_us - self.host.cache_us]
        yield from self._send(long, end_us - 1)
        for key in resting:
            del self.cache[key]

    def stop(self, now_us: int) -> Iterator[Event]:
        yield from self._send([flow for flow in self.cache.values() if flow.packets], now_us)
        self.cache.clear()

    def _send(self, flows: list[Flow], time_us: int) -> Iterator[Event]:
        """Report what was counted since the last record of each flow."""
        for first in range(0, len(flows), wire.NETFLOW_RECORDS):
            records = [self._record(flow, time_us) for flow in flows[first : first + wire.NETFLOW_RECORDS]]
            self.records += len(records)
            now = time_us + self.host.clock_us, (time_us - self.booted_us) // 1000 & 0xFFFFFFFF
            payload = wire.netflow_datagram(records, self.records - 1, *now, self.number + 1)
            yield Event(time_us, self.number, self.port, payload)

    def _record(self, flow: Flow, time_us: int) -> bytes:
        sight = flow.sight
        into = sight.here and sight.tunnel is not None
        ports = (
            sight.src.port.of_port if sight.here else OUTPUT_TUNNEL,
            OUTPUT_TUNNEL if into else sight.dst.port.of_port,
        )
        counts = flow.packets, flow.octets + into * flow.packets * wire.VXLAN_BYTES
        first, last = ((when - self.booted_us) // 1000 & 0xFFFFFFFF for when in (flow.start_us, flow.end_us))
        packet = sight.packet()._replace(flags=flow.flags)
        flow.begin_us, flow.packets, flow.octets, flow.flags = time_us, 0, 0, 0
        return wire.netflow_record(packet, ports, counts, (first, last))


EXPORTERS: dict[str, Callable[[int, Cloud, int, int], Exporter]] = {
    "sflow": Sflow,
    "ipfix": Ipfix,
    "netflow5": Netflow5,
}
"""Exporter class by protocol of the host."""
