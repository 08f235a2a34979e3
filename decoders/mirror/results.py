"""What the meter counted, as columns: a row per connection, or per pair of client and server.

`to_server` is what the client sent, `to_client` the answer.  A direction of which the capture lost something has no
retransmission figures (NULL): what looks like one may be the gap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.datagrams import address_text
from decoders.mirror.meter import OVERLAY
from decoders.mirror.state import (
    C_CLIENT,
    C_CLIENT_NS,
    C_ENDED_NS,
    C_ESTABLISHED,
    C_FIELDS,
    C_FIRST_NS,
    C_IN_USE,
    C_LAST_NS,
    C_OPENED,
    C_RESET,
    C_SERVER_NS,
    C_SYN_ACKS,
    C_SYN_NS,
    C_SYNS,
    C_UNANSWERED,
    D_CAPTURE_GAP,
    D_DATA_OCTETS,
    D_DATA_SEGMENTS,
    D_DUPLICATES,
    D_FIELDS,
    D_FIN,
    D_LEAST_NS,
    D_LONGEST_NS,
    D_LOST_BEFORE,
    D_OCTETS,
    D_OUT_OF_WINDOW,
    D_PACKETS,
    D_READINGS,
    D_REORDERED,
    D_RESPONSES,
    D_RETRANSMITTED,
    D_SPURIOUS,
    D_ZERO_NS,
    D_ZERO_SINCE_NS,
    D_ZERO_WINDOWS,
    R_RESPONSES,
    R_ROWS,
    READINGS,
    RESET_BY_CLIENT,
    RESET_BY_SERVER,
    RESET_REFUSED,
    S_ADDRESS_HIGH,
    S_ADDRESS_LOW,
    S_DUPLICATES,
    S_IN_USE,
    S_LATE,
    S_LOST,
    S_RECEIVED,
    S_SESSION,
    T_HALVED,
    T_LAST_NS,
    T_USED,
    Meter,
    sweep,
)
from decoders.packet import TCP

UNANSWERED_NS = 3_000_000_000
"""A SYN without an answer for this long has failed: Linux sends it again after 1 s."""
PROBE_NS = 120_000_000_000
"""A window of zero counts no longer than this after the last packet: who has data asks at least as often in Linux."""

Row = dict[str, Any]
Numbers = NDArray[np.int64]

_COUNTS = {
    "packets": D_PACKETS,
    "octets": D_OCTETS,
    "data_segments": D_DATA_SEGMENTS,
    "data_octets": D_DATA_OCTETS,
    "retransmitted_segments": D_RETRANSMITTED,
    "spurious_segments": D_SPURIOUS,
    "lost_before_segments": D_LOST_BEFORE,
    "reordered_segments": D_REORDERED,
    "duplicate_packets": D_DUPLICATES,
    "capture_gap_octets": D_CAPTURE_GAP,
    "out_of_window_segments": D_OUT_OF_WINDOW,
    "zero_windows": D_ZERO_WINDOWS,
}
_UNKNOWN_WITH_GAPS = (
    "retransmitted_segments", "spurious_segments", "lost_before_segments", "reordered_segments",
)  # fmt: skip
NEVER = np.iinfo(np.int64).max
WAYS = ("to_server", "to_client")
ENDS = ("server", "client")
"""At which end a round trip from the mirror was answered: data to the server measures the server's part."""


class Window(NamedTuple):
    """A window of time, without its end, in ns."""

    begin_ns: int
    end_ns: int
    until_ns: int
    """Up to when it was watched: its end, but for the last window of a capture."""


class _Slots:
    """The connections of a window with packets, an end or a window of zero; directions are in the order of `WAYS`."""

    def __init__(self, meter: Meter, window: Window | None) -> None:
        last_ns = int(meter.totals[T_LAST_NS])
        self.window = window or Window(0, last_ns + 1, last_ns)
        state = meter.state[: int(meter.totals[T_USED])]
        shown = _unanswered(state, self.window.until_ns)
        for direction in (C_FIELDS, C_FIELDS + D_FIELDS):
            shown |= (state[:, direction + D_PACKETS] != 0) | (_zero_window_ns(state, direction, self.window) != 0)
        slots = np.flatnonzero((state[:, C_IN_USE] != 0) & shown)
        self.slots = slots[np.argsort(meter.state[slots, C_FIRST_NS], kind="stable")]
        self.state = meter.state[self.slots]
        self.key = meter.key[self.slots]
        self.client = self.state[:, C_CLIENT]
        self.protocol = (self.key[:, 4] >> np.uint64(32)).astype(np.int64)
        self.unanswered = _unanswered(self.state, self.window.until_ns)
        self._meter = meter

    def direction(self, way: int, field: int) -> Numbers:
        """Return a field of the direction to the server (0) or to the client (1)."""
        return self._of(way, self.state[:, C_FIELDS + field], self.state[:, C_FIELDS + D_FIELDS + field])

    def _of(self, way: int, first: Numbers, second: Numbers) -> Numbers:
        return np.where(self.client ^ way, second, first)

    def addresses(self) -> tuple[list[bytes], list[bytes]]:
        """Return the addresses of clients and of servers, 16 octets each."""
        first = [row.tobytes() for row in self.key[:, 0:2]]
        second = [row.tobytes() for row in self.key[:, 2:4]]
        swap = self.client.tolist()
        clients = [b if one else a for a, b, one in zip(first, second, swap, strict=True)]
        return clients, [a if one else b for a, b, one in zip(first, second, swap, strict=True)]

    def ports(self) -> tuple[Numbers, Numbers]:
        """Return the ports of clients and of servers."""
        first = (self.key[:, 4] >> np.uint64(16)).astype(np.int64) & 0xFFFF
        second = self.key[:, 4].astype(np.int64) & 0xFFFF
        return np.where(self.client == 0, first, second), np.where(self.client == 0, second, first)

    def readings(self, way: int) -> tuple[NDArray[np.float32], Numbers]:
        """Return the round trips of the data in a direction, [n, READINGS], and how many there were."""
        return self._meter.readings[self.slots * R_ROWS + (self.client ^ way)], self.direction(way, D_READINGS)

    def responses(self) -> tuple[NDArray[np.float32], Numbers]:
        """Return the response times, [n, READINGS], and how many there were."""
        return self._meter.readings[self.slots * R_ROWS + R_RESPONSES], self.direction(0, D_RESPONSES)

    def outcomes(self) -> list[str]:
        """Return how each TCP connection went; empty for others."""
        state = self.state
        reset = state[:, C_RESET]
        closed = (self.direction(0, D_FIN) != 0) & (self.direction(1, D_FIN) != 0)
        chosen = np.select(
            [
                self.protocol != TCP,
                reset == RESET_REFUSED,
                reset == RESET_BY_CLIENT,
                reset == RESET_BY_SERVER,
                closed,
                self.unanswered | (state[:, C_UNANSWERED] != 0),
                state[:, C_OPENED] != 0,
            ],
            ["", "refused", "reset_by_client", "reset_by_server", "closed", "unanswered", "open"],
            "midstream",
        )
        found: list[str] = chosen.tolist()
        return found

    def opened(self) -> NDArray[np.bool_]:
        """Return which TCP connections were opened in the window."""
        found: NDArray[np.bool_] = self.state[:, C_OPENED] != 0
        return found & (self.state[:, C_FIRST_NS] >= self.window.begin_ns)

    def ended(self) -> NDArray[np.bool_]:
        """Return which ended in the window, so that nobody counts an end twice."""
        at: Numbers = np.where(self.state[:, C_UNANSWERED] != 0, 0, self.state[:, C_ENDED_NS])
        return self.unanswered | ((at >= max(self.window.begin_ns, 1)) & (at < self.window.end_ns))

    def zero_window_us(self, way: int) -> Numbers:
        """Return how long there was no room."""
        first, second = (_zero_window_ns(self.state, C_FIELDS + D_FIELDS * one, self.window) for one in range(2))
        return self._of(way, first, second) // 1000


def _zero_window_ns(state: Numbers, direction: int, window: Window) -> Numbers:
    """Return how long each connection had no room in the direction whose fields begin there."""
    since = state[:, direction + D_ZERO_SINCE_NS]
    until = np.minimum(state[:, C_LAST_NS] + PROBE_NS, window.until_ns)
    lasting: Numbers = np.where(since != 0, np.maximum(until - since, 0), 0)
    return state[:, direction + D_ZERO_NS] + lasting


def _unanswered(state: Numbers, now_ns: int) -> NDArray[np.bool_]:
    """Return of which connections it is known now, and was in no window before, that the server does not answer."""
    alone = (state[:, C_SYNS] != 0) & (state[:, C_SYN_ACKS] == 0) & (state[:, C_ESTABLISHED] == 0)
    alone &= (state[:, C_RESET] == 0) & (state[:, C_UNANSWERED] == 0)
    found: NDArray[np.bool_] = alone & (now_ns - state[:, C_SYN_NS] >= UNANSWERED_NS)
    return found


def begin_window(meter: Meter, begin_ns: int) -> None:
    """Begin a window: a window of zero that has lasted since an earlier one counts from here on."""
    state = meter.state[: int(meter.totals[T_USED])]
    for direction in (C_FIELDS, C_FIELDS + D_FIELDS):
        since = state[:, direction + D_ZERO_SINCE_NS]
        np.maximum(since, begin_ns, out=since, where=since != 0)


def end_window(meter: Meter, window: Window) -> None:
    """End a window: counts begin at 0 again, and connections that have ended, or were idle for long, go."""
    state = meter.state[: int(meter.totals[T_USED])]
    state[:, C_UNANSWERED] |= _unanswered(state, window.until_ns)
    sweep(meter, window.end_ns)


def connections(meter: Meter, window: Window | None = None) -> list[Row]:
    """Return a row per connection of a window, or since the meter is new, in the order of their first packets.

    Times in µs; None: not known.
    """
    found = _Slots(meter, window)
    clients, servers = found.addresses()
    client_ports, server_ports = found.ports()
    columns: dict[str, list[Any]] = {
        **_between(found.state[:, C_FIRST_NS], found.state[:, C_LAST_NS], window),
        **_rate(meter, len(found.slots)),
        "network": [network_text(int(number)) for number in found.key[:, 5]],
        "ip_protocol": found.protocol.tolist(),
        "src_ip": [address_text(one) for one in clients],
        "src_port": client_ports.tolist(),
        "dst_ip": [address_text(one) for one in servers],
        "dst_port": server_ports.tolist(),
        "client_known": (found.state[:, C_OPENED] != 0).tolist(),
        "opened": found.opened().tolist(),
        "ended": found.ended().tolist(),
        "outcome": found.outcomes(),
    }
    for way, name in enumerate(WAYS):
        gaps = found.direction(way, D_CAPTURE_GAP) != 0
        for count, field in _COUNTS.items():
            values = found.direction(way, field)
            columns[f"{count}_{name}"] = _known(values, ~gaps) if count in _UNKNOWN_WITH_GAPS else values.tolist()
        columns[f"zero_window_us_{name}"] = found.zero_window_us(way).tolist()
    for way, end in enumerate(ENDS):
        handshake = found.state[:, C_SERVER_NS if way == 0 else C_CLIENT_NS]
        least = found.direction(way, D_LEAST_NS)
        columns[f"handshake_{end}_us"] = _us(handshake)
        columns[f"rtt_{end}_min_us"] = _us(least)
        columns[f"rtt_{end}_median_us"] = _medians_of(*found.readings(way))
        columns[f"rtt_{end}_samples"] = found.direction(way, D_READINGS).tolist()
    columns["responses"] = found.direction(0, D_RESPONSES).tolist()
    columns["response_median_us"] = _medians_of(*found.responses())
    columns["response_max_us"] = _us(found.direction(0, D_LONGEST_NS))
    return _rows(columns)


def pairs(meter: Meter, window: Window | None = None) -> list[Row]:
    """Return a row per network, client and server, most octets first: sums of their connections.

    Retransmission figures are those of directions without capture gaps, of which `counted_segments` says the segments.
    In a median, the readings that are kept of a connection stand for all that it had.
    """
    found = _Slots(meter, window)
    clients, servers = found.addresses()
    numbers: dict[tuple[int, bytes, bytes], int] = {}
    networks = found.key[:, 5].tolist()
    of = np.array(
        [numbers.setdefault(key, len(numbers)) for key in zip(networks, clients, servers, strict=True)], np.int64
    )
    outcomes = np.where(found.ended(), np.array(found.outcomes()), "")

    def summed(values: Any) -> list[int]:
        total = np.zeros(len(numbers), np.int64)
        np.add.at(total, of, np.asarray(values, np.int64))
        return total.tolist()

    begins = np.full(len(numbers), NEVER)
    ends = np.zeros(len(numbers), np.int64)
    np.minimum.at(begins, of, found.state[:, C_FIRST_NS])
    np.maximum.at(ends, of, found.state[:, C_LAST_NS])
    columns: dict[str, list[Any]] = {
        **_between(begins, ends, window),
        **_rate(meter, len(numbers)),
        "network": [network_text(network) for network, _, _ in numbers],
        "src_ip": [address_text(client) for _, client, _ in numbers],
        "dst_ip": [address_text(server) for _, _, server in numbers],
        "connections": summed(found.protocol == TCP),
        "refused": summed(outcomes == "refused"),
        "unanswered": summed(outcomes == "unanswered"),
        "reset": summed([outcome.startswith("reset") for outcome in outcomes]),
    }
    for way, name in enumerate(WAYS):
        whole = found.direction(way, D_CAPTURE_GAP) == 0
        columns[f"counted_segments_{name}"] = summed(found.direction(way, D_DATA_SEGMENTS) * whole)
        for count, field in _COUNTS.items():
            values = found.direction(way, field)
            columns[f"{count}_{name}"] = summed(values * whole if count in _UNKNOWN_WITH_GAPS else values)
        columns[f"zero_window_us_{name}"] = summed(found.zero_window_us(way))
    for way, end in enumerate(ENDS):
        samples = found.direction(way, D_READINGS)
        least = np.full(len(numbers), NEVER)
        np.minimum.at(least, of[samples != 0], found.direction(way, D_LEAST_NS)[samples != 0])
        handshake = found.state[:, C_SERVER_NS if way == 0 else C_CLIENT_NS]
        timed = handshake != 0
        columns[f"handshake_{end}_median_us"] = _medians(
            handshake[timed] / 1000, np.ones(int(timed.sum())), of[timed], len(numbers)
        )
        columns[f"rtt_{end}_min_us"] = _us(np.where(least == NEVER, 0, least))
        columns[f"rtt_{end}_median_us"] = _medians_of(*found.readings(way), of, len(numbers))
        columns[f"rtt_{end}_samples"] = summed(samples)
    longest = np.zeros(len(numbers), np.int64)
    np.maximum.at(longest, of, found.direction(0, D_LONGEST_NS))
    columns["responses"] = summed(found.direction(0, D_RESPONSES))
    columns["response_median_us"] = _medians_of(*found.responses(), of, len(numbers))
    columns["response_max_us"] = _us(longest)
    rows = _rows(columns)
    rows.sort(key=octets, reverse=True)
    return rows


def octets(row: Row) -> int:
    """Return the octets of both directions."""
    return int(row["octets_to_server"] + row["octets_to_client"])


def mirrors(meter: Meter) -> list[Row]:
    """Return a row per stream of GRE packets with sequence numbers: what came, and what was lost on the way here."""
    return [
        {
            "address": address_text(row[[S_ADDRESS_HIGH, S_ADDRESS_LOW]].tobytes()),
            "session": int(row[S_SESSION]),
            "received": int(row[S_RECEIVED]),
            "lost": int(row[S_LOST]),
            "late": int(row[S_LATE]),
            "duplicates": int(row[S_DUPLICATES]),
        }
        for row in meter.sources[meter.sources[:, S_IN_USE] != 0]
    ]


def network_text(number: int) -> str:
    """Return a network as `vlan 100` or `vni 5001`, empty for none."""
    if number & OVERLAY:
        return f"vni {number & (OVERLAY - 1)}"
    return f"vlan {number}" if number else ""


def _between(first_ns: Numbers, last_ns: Numbers, window: Window | None) -> dict[str, list[Any]]:
    """Return begin and length of the window, or from the first to the last packet."""
    if window is not None:
        first_ns, last_ns = np.full_like(first_ns, window.begin_ns), np.full_like(last_ns, window.end_ns)
    return {"time_us": (first_ns // 1000).tolist(), "interval_us": ((last_ns - first_ns) // 1000).tolist()}


def _rate(meter: Meter, rows: int) -> dict[str, list[Any]]:
    """Return of how many connections one is counted."""
    return {"sampling_rate": [1 << int(meter.totals[T_HALVED])] * rows}


def _rows(columns: dict[str, list[Any]]) -> list[Row]:
    names = tuple(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _known(values: Numbers, known: NDArray[np.bool_]) -> list[int | None]:
    return [value if one else None for value, one in zip(values.tolist(), known.tolist(), strict=True)]


def _us(ns: Numbers) -> list[float | None]:
    return [round(value / 1000, 1) if value else None for value in ns.tolist()]


def _medians_of(
    readings: NDArray[np.float32], counts: Numbers, owner: Numbers | None = None, groups: int = 0
) -> list[float | None]:
    """Return the median of each row's readings, or of those of each group of rows; `counts`: how many a row had."""
    if owner is None:
        owner, groups = np.arange(len(counts)), len(counts)
    kept = np.arange(READINGS)[None, :] < counts[:, None]
    owners = np.broadcast_to(owner[:, None], kept.shape)[kept]
    weights = np.broadcast_to((np.maximum(counts, READINGS) / READINGS)[:, None], kept.shape)[kept]
    return _medians(readings[kept], weights, owners, groups)


def _medians(values: NDArray[Any], weights: NDArray[np.float64], owner: Numbers, groups: int) -> list[float | None]:
    """Return the median of the values of each group: half of the weight is at it or before, and half at it or behind.

    Sums are exact: weights are whole parts of READINGS, a power of two.
    """
    order = np.lexsort((values, owner))
    values, owner = values[order].astype(np.float64), owner[order]
    up_to = np.concatenate(([0.0], np.cumsum(weights[order])))
    begin, end = (np.searchsorted(owner, np.arange(groups), side) for side in ("left", "right"))
    half = (up_to[begin] + up_to[end]) / 2
    last = max(len(values) - 1, 0)
    low = np.minimum(np.searchsorted(up_to[1:], half, "left"), last)
    high = np.minimum(np.searchsorted(up_to[1:], half, "right"), last)
    found = (values[low] + values[high]) / 2 if len(values) else np.zeros(groups)
    return [round(value, 1) if n else None for value, n in zip(found.tolist(), (end - begin).tolist(), strict=True)]
