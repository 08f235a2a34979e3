"""libvirt's counters of virtual interfaces, as polls for `interface_counters`.

Directions: libvirt shows the guest's side, the table shows the switch's.  What the guest sends (`tx`) the switch
receives (`in_`).  libvirt does the same for all kinds of interfaces: it turns the counters of a tap device and of a
vhost-user port round, and leaves those of a macvtap device as they are, because that device already counts as the
guest does (virDomainNetTypeSharesHostView).  So no kind is an exception here.

libvirt counts all packets in one number.  It stands where Open vSwitch puts all packets: `in_unicast_packets` and
`out_unicast_packets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from collector.enrich.counter_rows import Poll
from collector.enrich.libvirt_domain import MAX_INTERFACES
from decoders.rows import ABSENT
from schemas.counters import TOTALS
from schemas.text import clean

_FIELDS = {
    "in_octets": "tx.bytes",
    "in_unicast_packets": "tx.pkts",
    "in_discards": "tx.drop",
    "in_errors": "tx.errs",
    "out_octets": "rx.bytes",
    "out_unicast_packets": "rx.pkts",
    "out_discards": "rx.drop",
    "out_errors": "rx.errs",
}
"""Total of the table -> libvirt's `net.N.` parameter."""
_TOTAL_NAMES = [name for name, *_ in TOTALS]
_TOTAL_ROWS = np.array([_TOTAL_NAMES.index(name) for name in _FIELDS])


class DomainStats(NamedTuple):
    """What libvirt says of one active domain in one bulk call."""

    uuid: bytes
    """16 octets."""
    number: int
    """libvirt's id of this run of the domain: a domain that is started again has another."""
    values: Mapping[str, object]
    """Typed parameters by name: `net.count`, `net.0.name`, `net.0.rx.bytes`, …"""


def poll(domains: Iterable[DomainStats], wall_us: int, monotonic_us: int) -> Poll:
    """One poll of all interfaces that have a device and at least one counter, known by domain and device.

    libvirt's number N of an interface is no key: it changes when another one is unplugged.
    """
    epochs: dict[tuple[bytes, str], int] = {}
    values: list[list[int]] = []
    for domain in domains:
        count = domain.values.get("net.count", 0)
        for number in range(min(count, MAX_INTERFACES) if isinstance(count, int) else 0):
            prefix = f"net.{number}."
            key = (domain.uuid, clean(str(domain.values.get(f"{prefix}name", ""))))
            read = [_counter(domain.values.get(prefix + name)) for name in _FIELDS.values()]
            if key[1] and key not in epochs and any(value != ABSENT for value in read):
                epochs[key] = domain.number
                values.append(read)
    totals = np.full((len(TOTALS), len(epochs)), ABSENT, np.uint64)
    if values:
        totals[_TOTAL_ROWS] = np.array(values, np.uint64).T
    return Poll(
        keys=list(epochs),
        names=[device for _, device in epochs],
        if_index=np.zeros(len(epochs), np.uint32),
        epochs=np.fromiter(epochs.values(), np.int64, len(epochs)),
        totals=totals,
        wall_us=wall_us,
        monotonic_us=monotonic_us,
    )


def _counter(value: object) -> int:
    """A counter, or ABSENT for what is none."""
    return value if isinstance(value, int) and 0 <= value < ABSENT else ABSENT
