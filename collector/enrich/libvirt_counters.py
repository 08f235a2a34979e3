"""libvirt's counters of virtual interfaces into rows of `interface_counters`.

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
import pyarrow as pa
from numpy.typing import NDArray

from collector.enrich.libvirt_domain import MAX_INTERFACES, MAX_TEXT
from collector.enrich.source import Address
from decoders.rows import ABSENT, batch, layout, new_rows
from schemas.counters import COUNTERS, TOTALS

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
_PLACES = layout(COUNTERS)
_TOTALS_AT = _PLACES["in_octets"][1]
_DELTAS_AT = _PLACES["in_octets_delta"][1]
_FIRST, _OK, _RESET = (COUNTERS["delta_state"].code(name) for name in ("first", "ok", "reset"))


class DomainStats(NamedTuple):
    """What libvirt says of one active domain in one bulk call."""

    uuid: bytes
    """16 octets."""
    number: int
    """libvirt's id of this run of the domain: a domain that is started again has another."""
    values: Mapping[str, object]
    """Typed parameters by name: `net.count`, `net.0.name`, `net.0.rx.bytes`, …"""


class _Poll(NamedTuple):
    """One poll, kept for the differences of the next.  n interfaces."""

    row: dict[tuple[bytes, str], int]
    """(domain's UUID, device) -> row."""
    runs: NDArray[np.int64]
    """[n] Id of the run of the domain."""
    totals: NDArray[np.uint64]
    """[totals, n] In the order of `TOTALS`, ABSENT where not told."""
    monotonic_us: int


class Counters:
    """Makes rows of one hypervisor's polls, with the differences to the poll before.

    What is kept is one poll, so it cannot grow beyond the interfaces that there are.  It outlives a connection: that
    libvirtd was restarted does not touch the counters.
    """

    def __init__(self) -> None:
        self._before: _Poll | None = None

    def rows(
        self, domains: Iterable[DomainStats], agent: Address | None, wall_us: int, monotonic_us: int
    ) -> pa.RecordBatch | None:
        """All decoded columns of `interface_counters` for one poll; None if no interface has counters.

        `agent` is an address under which the hypervisor exports, None = not known (`::` in the rows).  `wall_us` (µs
        since 1970) and `monotonic_us` (any zero) say when the poll was.
        """
        poll = _read(domains, monotonic_us)
        count = len(poll.row)
        state, deltas, interval = _differences(self._before, poll)
        self._before = poll
        if count == 0:
            return None
        rows = new_rows(COUNTERS, count)
        for column in COUNTERS.stored:
            if column.nullable:
                rows.u64[_PLACES[column.name][1]] = ABSENT
        rows.u64[_PLACES["time_received"][1]] = wall_us
        rows.u64[_PLACES["interval_us"][1]] = interval
        rows.u64[_TOTALS_AT : _TOTALS_AT + len(TOTALS)] = poll.totals
        rows.u64[_DELTAS_AT : _DELTAS_AT + len(TOTALS)] = deltas
        rows.u8[_PLACES["source"][1]] = COUNTERS["source"].code("libvirt")
        rows.u8[_PLACES["delta_state"][1]] = state
        rows.u32[_PLACES["if_name"][1]] = np.arange(count)
        rows.address[_PLACES["agent"][1]] = np.frombuffer(_mapped(agent), np.uint64)
        return batch(COUNTERS, rows, count, pa.array([device for _, device in poll.row], pa.string()))


def _read(domains: Iterable[DomainStats], monotonic_us: int) -> _Poll:
    """The counters of all interfaces that have a device and at least one counter."""
    row: dict[tuple[bytes, str], int] = {}
    runs: list[int] = []
    values: list[list[int]] = []
    for domain in domains:
        count = domain.values.get("net.count", 0)
        for number in range(min(count, MAX_INTERFACES) if isinstance(count, int) else 0):
            prefix = f"net.{number}."
            key = (domain.uuid, str(domain.values.get(f"{prefix}name", ""))[:MAX_TEXT])
            read = [_counter(domain.values.get(prefix + name)) for name in _FIELDS.values()]
            if key[1] and key not in row and any(value != ABSENT for value in read):
                row[key] = len(row)
                runs.append(domain.number)
                values.append(read)
    totals = np.full((len(TOTALS), len(row)), ABSENT, np.uint64)
    if values:
        totals[_TOTAL_ROWS] = np.array(values, np.uint64).T
    return _Poll(row, np.array(runs, np.int64), totals, monotonic_us)


def _counter(value: object) -> int:
    """A counter, or ABSENT for what is none."""
    return value if isinstance(value, int) and 0 <= value < ABSENT else ABSENT


def _differences(before: _Poll | None, now: _Poll) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]:
    """State [n], deltas [totals, n] and interval in µs [n] of `now` against `before`.

    Counters were reset where one of them fell or the domain was started again: then no delta holds.
    """
    count = len(now.row)
    state = np.full(count, _FIRST, np.uint8)
    deltas = np.full((len(TOTALS), count), ABSENT, np.uint64)
    interval = np.full(count, ABSENT, np.uint64)
    if before is None or not before.row or count == 0:
        return state, deltas, interval
    place = np.fromiter((before.row.get(key, -1) for key in now.row), np.int64, count)
    old = before.totals[:, place]
    told = (old != ABSENT) & (now.totals != ABSENT)
    reset = (told & (now.totals < old)).any(axis=0) | (before.runs[place] != now.runs)
    known = place >= 0
    good = known & ~reset
    state[known & reset] = _RESET
    state[good] = _OK
    interval[good] = max(now.monotonic_us - before.monotonic_us, 0)
    holds = told & good
    deltas[holds] = now.totals[holds] - old[holds]
    return state, deltas, interval


def _mapped(address: Address | None) -> bytes:
    """16 octets, IPv4 mapped into IPv6."""
    if address is None:
        return bytes(16)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
