"""Stored figures of VMs, of pairs of hypervisors, and of all VM pairs: theirs, added up once per closed window.

    pair_figure_rows_1m ──► vm_figure_rows_1m    ──► view vm_figures_1m     a VM and a direction
                       ├──► host_figure_rows_1m  ──► view host_figures_1m   two hypervisors
                       └──► cloud_figure_rows_1m ──► view cloud_figures_1m  all pairs of VMs that have a name

They are stored under the version of the pairs' rows, before it counts (`schemas.figures`).

**Volume.** Errors of pairs are independent: each side of the interval is added up in quadrature.
**Loss.** One minus received over sent, of the pairs whose loss is known.  The sampling error is that of the two sums;
what records and delays may put on the wrong side of a window's ends can befall all pairs at once, so it is added up.
**Latency.** The median of the pairs' medians.  Each is true within its spread, so theirs lies between the median of the
lower ends and that of the upper ends.  Trips one way and round trips are not mixed: the kind of more pairs counts.
"""

from __future__ import annotations

from schemas.column import NAME, NAMED_UUID, UINT32, UINT64, Column
from schemas.flows import T64, ZSTD
from schemas.rollups import FLOAT
from schemas.views.common import log_half_width

SLOW_US = 20_000
"""Latency above which a pair is called slow, as the console does."""


def _count(name: str, doc: str) -> Column:
    return Column(name, UINT64, doc, unit="pairs", codec=T64)


def _float(name: str, doc: str, unit: str) -> Column:
    return Column(name, FLOAT, doc, unit=unit, missing="NULL", nullable=True, codec=ZSTD)


def _name(name: str, doc: str) -> Column:
    return Column(name, NAME, doc, missing="''", codec=ZSTD)


def _interval(name: str, doc: str, unit: str) -> tuple[Column, ...]:
    return (
        _float(name, doc, unit),
        _float(f"{name.removesuffix('_ratio').removesuffix('_us')}_low", "Lower end of its 95 % interval.", unit),
        _float(f"{name.removesuffix('_ratio').removesuffix('_us')}_high", "Upper end of its 95 % interval.", unit),
    )


SUMMED = (
    _count("pairs", "VM pairs behind the figures."),
    _count("unmeasured_pairs", "Of them, those whose volume is not known."),
    *_interval("bits_per_second", "Layer 3 bits per second, estimated.", "bit/s"),
    *_interval("packets_per_second", "Packets per second, estimated.", "packets/s"),
    *_interval("loss_ratio", "Share of the packets of the measured pairs that did not arrive.", "ratio"),
    _count("measured_pairs", "Pairs whose loss is known."),
    _count("lossy_pairs", "Pairs that lose for certain: their lower end is above 0."),
    _count("blind_pairs", "Pairs between two known hypervisors that are seen at one end only."),
    _count("insufficient_pairs", "Pairs with too few samples to state loss."),
    _float("worst_loss_low", "Highest lower end of the loss of a pair.", "ratio"),
    *_interval("latency_us", "Median latency of the pairs.", "µs"),
    _name("latency_trip", "What the latency holds: one way, or a round trip."),
    _count("timed_pairs", "Pairs whose latency is measured like this."),
    _count("slow_pairs", f"Of them, those whose latency is for certain above {SLOW_US} µs."),
    Column("connections", UINT64, "Distinct connections, at least.", unit="connections", codec=T64),
    Column("samples", FLOAT, "Sampled packets behind the figures.", unit="packets", codec=ZSTD),
    Column("sampling_rate", UINT32, "Highest sampling rate of a pair.", codec=T64),
)
"""Columns that both tables have."""

VM_KEYS = (
    _name("vm", "Name of the VM."),
    Column("vm_uuid", NAMED_UUID, "UUID of the VM.", missing="zeros", codec=ZSTD),
    _name("direction", "`sent` by the VM, or `received`."),
)
VM_MORE = (_name("host", "Hypervisor of the VM."), _name("project", "Project of the VM in this window."))
HOST_KEYS = (
    _name("src_host", "Hypervisor that sends; empty: none that is known."),
    _name("dst_host", "Hypervisor that receives; empty: none that is known."),
)
KEYS: dict[str, tuple[Column, ...]] = {"vm": VM_KEYS, "host": HOST_KEYS, "cloud": ()}
MORE: dict[str, tuple[Column, ...]] = {"vm": VM_MORE, "host": (), "cloud": ()}

_HALF = log_half_width("sent_packets", "sent_packets_variance", "received_packets", "received_packets_variance")
_OF_PAIR = f"""
    loss_ratio IS NOT NULL AS known,
    received_packets / sent_packets AS arrived,
    if(known AND received_packets > 0, {_HALF}, 0) AS width,
    -- What the interval of the pair allows for beside sampling: the larger one of both sides, where they are not cut.
    if(known, greatest(0, loss_high - (1 - arrived * exp(-width)),
        if(loss_low > 0, (1 - arrived * exp(width)) - loss_low, 0)), 0) AS edge"""

_SUM_HALF = log_half_width("sent", "sent_variance", "received", "received_variance")


def _rates(name: str) -> str:
    return (
        f"sum({name}) AS {name}_sum, sqrt(sum(pow(ifNull({name} - {name}_low, 0), 2))) AS {name}_below, "
        f"sqrt(sum(pow(ifNull({name}_high - {name}, 0), 2))) AS {name}_above"
    )


def _ends(name: str) -> str:
    low = f"if({name}_sum IS NULL, NULL, greatest(0, {name}_sum - {name}_below))"
    return f"{name}_sum, {low}, {name}_sum + {name}_above"


def _median(of: str, trip: str) -> str:
    return f"quantileExactIf(0.5)(assumeNotNull({of}), latency_us IS NOT NULL AND latency_trip = '{trip}')"


def _trips(of: str, name: str) -> str:
    return f"{_median(of, 'one_way')} AS {name}_one_way, {_median(of, 'round_trip')} AS {name}_round_trip"


def _slow(trip: str) -> str:
    return f"countIf(latency_trip = '{trip}' AND toFloat64(latency_us) - latency_spread_us > {SLOW_US}) AS slow_{trip}"


def _rows(what: str, level: str) -> str:
    """Return a query of the rows to add up: pairs of the window, a VM's twice."""
    pairs = (
        f"SELECT * FROM pair_figure_rows_{level} "
        "WHERE time = toDateTime({time:UInt32}, 'UTC') AND version = {version:UInt64}"
    )
    if what == "cloud":
        return f"{pairs} AND src_vm != '' AND dst_vm != ''"
    if what == "host":
        return pairs
    return f"""SELECT *, end.1 AS vm, end.2 AS vm_uuid, end.3 AS direction, end.4 AS host, end.5 AS project
    FROM ({pairs}) ARRAY JOIN [
        tuple(toString(src_vm), src_vm_uuid, 'sent', toString(src_host), toString(src_project)),
        tuple(toString(dst_vm), dst_vm_uuid, 'received', toString(dst_host), toString(dst_project))] AS end
    WHERE end.1 != ''"""


def add_up(what: str, level: str) -> str:
    """Return the statement that stores the figures of a window: `what` is vm, host (pairs of hypervisors), or cloud.

    Its parameters: `time` (s since 1970), `version` (of the rows of pairs).
    """
    keys = "".join(f", {column.name}" for column in KEYS[what])
    more = "".join(f", {column.name}" for column in MORE[what])
    summed = "".join(f", {column.name}" for column in SUMMED)
    most = "".join(f", max({column.name}) AS {column.name}" for column in MORE[what])
    half = f"if(received > 0, {_SUM_HALF}, 0)"
    return f"""INSERT INTO {what}_figure_rows_{level} (time{keys}{more}{summed}, version)
SELECT begun{keys}{more}, rows, unmeasured, {_ends("bits_per_second")}, {_ends("packets_per_second")},
    if(measured > 0, greatest(0, 1 - share), NULL),
    if(measured > 0, greatest(0, 1 - share * exp(half) - (edges + unseen) / sent), NULL),
    if(measured > 0, least(1, greatest(0, 1 - share * exp(-half) + edges / sent)), NULL),
    measured, lossy, blind, insufficient, worst,
    if(timed > 0, if(one_ways >= round_trips, middle_one_way, middle_round_trip), NULL),
    if(timed > 0, greatest(0, if(one_ways >= round_trips, lower_one_way, lower_round_trip)), NULL),
    if(timed > 0, if(one_ways >= round_trips, upper_one_way, upper_round_trip), NULL),
    multiIf(timed = 0, '', one_ways >= round_trips, 'one_way', 'round_trip'), timed,
    if(one_ways >= round_trips, slow_one_way, slow_round_trip),
    connected, sampled, rate, {{version:UInt64}}
FROM (
    SELECT *, received / sent AS share, {half} AS half, greatest(one_ways, round_trips) AS timed
    FROM (
        SELECT toDateTime({{time:UInt32}}, 'UTC') AS begun{keys}{most},
            count() AS rows, countIf(bits_per_second IS NULL) AS unmeasured,
            {_rates("bits_per_second")}, {_rates("packets_per_second")},
            sumIf(sent_packets, known) AS sent, sumIf(received_packets, known) AS received,
            sumIf(sent_packets_variance, known) AS sent_variance,
            sumIf(received_packets_variance, known) AS received_variance,
            sum(ifNull(edge, 0) * sent_packets) AS edges,
            sum(if(known AND received_packets = 0, 1 - ifNull(loss_low, 0), 0) * sent_packets) AS unseen,
            countIf(known) AS measured, countIf(loss_low > 0) AS lossy,
            countIf(loss_evidence = 'blind' AND src_host != '' AND dst_host != '' AND src_host != dst_host) AS blind,
            countIf(loss_evidence = 'insufficient') AS insufficient, max(loss_low) AS worst,
            {_trips("toFloat64(latency_us)", "middle")},
            {_trips("toFloat64(latency_us) - latency_spread_us", "lower")},
            {_trips("toFloat64(latency_us) + latency_spread_us", "upper")},
            countIf(latency_us IS NOT NULL AND latency_trip = 'one_way') AS one_ways,
            countIf(latency_us IS NOT NULL AND latency_trip = 'round_trip') AS round_trips,
            {_slow("one_way")}, {_slow("round_trip")},
            sum(connections) AS connected, sum(samples) AS sampled, max(sampling_rate) AS rate
        FROM (SELECT *,{_OF_PAIR}
            FROM ({_rows(what, level)}))
        GROUP BY begun{keys}
    )
)"""
