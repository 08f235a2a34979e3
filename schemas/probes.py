"""Table `probes`: what one session of an agent measured in one window, and what of it goes to table `latency`."""

from __future__ import annotations

import pyarrow as pa

from schemas.column import ADDRESS, ENUM, NAME, TIME_US, UINT8, UINT16, UINT32, UINT64, Column, Origin, Table
from schemas.flows import DELTA, IPV6, LZ4, T64, ZSTD
from schemas.latency import LATENCY

FLOAT32, FLOAT64 = pa.float32(), pa.float64()
NAMED = (
    "src_vm", "dst_vm", "src_project", "dst_project", "src_host", "dst_host", "network", "src_vm_uuid", "dst_vm_uuid",
)  # fmt: skip
_NAMES = {
    "src_vm": "Name of the VM that the agent runs in; empty on a hypervisor.",
    "dst_vm": "Name of the VM that answers.",
    "src_project": "Project of the VM that the agent runs in.",
    "dst_project": "Project of the VM that answers.",
    "src_host": "Hypervisor of the agent's VM, or that it runs on.",
    "dst_host": "Hypervisor of the VM that answers, or that answers.",
    "network": "Virtual network of both VMs.",
    "src_vm_uuid": "UUID of the VM that the agent runs in.",
    "dst_vm_uuid": "UUID of the VM that answers.",
}


def _count(name: str, doc: str, *, unit: str = "probes", nullable: bool = False) -> Column:
    missing = "NULL" if nullable else "0"
    return Column(name, UINT32, doc, unit=unit, missing=missing, nullable=nullable, codec=T64)


def _us(name: str, doc: str, *, unit: str = "µs", wide: bool = False) -> Column:
    kind, name_there = (FLOAT64, "Float64") if wide else (FLOAT32, "Float32")
    return Column(
        name, kind, doc, unit=unit, clickhouse_type=name_there, missing="NULL", nullable=True, codec=ZSTD,
    )  # fmt: skip


def _ratio(name: str, doc: str) -> Column:
    return Column(name, FLOAT64, doc, unit="ratio", missing="NULL", nullable=True, codec=ZSTD)


def _named(name: str) -> Column:
    model = LATENCY[name]
    return Column(
        name, model.arrow, _NAMES[name], clickhouse_type=model.clickhouse_type, missing=model.missing,
        codec=model.codec, origin=Origin.ENRICH,
    )  # fmt: skip


MEASURED = (
    Column("time", TIME_US, "Begin of the window in which the probes were sent.", unit="µs since 1970", codec=DELTA),
    Column("interval_us", UINT64, "Length of the window.", unit="µs", codec=T64),
    Column("session", UINT32, "Number of the session at its agent; the same after a restart.", codec=LZ4),
    Column("reflector", NAME, "The other end as the agent's settings name it.", missing="''", codec=ZSTD),
    Column("src_ip", ADDRESS, "Address that probes come from.", clickhouse_type=IPV6, missing="::", codec=ZSTD),
    Column("dst_ip", ADDRESS, "Address that probes go to.", clickhouse_type=IPV6, missing="::", codec=ZSTD),
    Column("dst_port", UINT16, "UDP port that probes go to.", codec=LZ4),
    Column("dscp", UINT8, "Class of service of probes and replies.", codec=LZ4),
    Column("octets", UINT16, "Length of a probe without IP and UDP headers.", unit="bytes", codec=LZ4),
    Column("authenticated", UINT8, "1 if both ends share a key.", codec=LZ4),
    _count("sent", "Probes sent in the window: `received` + `lost`."),
    _count("received", "Of them, those whose reply came within 3 s."),
    _count("lost", "Those whose reply did not."),
    _count("late", "Lost ones whose reply came after that."),
    _count("lost_forward", "Lost on the way there; NULL unless the reflector counts its replies.", nullable=True),
    _count("lost_reverse", "Lost on the way back; of the other lost ones it is not known.", nullable=True),
    _count("duplicates", "Further replies to a probe.", unit="packets"),
    _count("reordered", "Replies that came after one to a later probe.", unit="packets"),
    _count("unreachable", "ICMP errors.", unit="errors"),
    _count("unsent", "Probes that the agent's machine refused to send; they are not in `sent`."),
    _count("refused", "Packets that were no reply, and times that cannot be.", unit="packets"),
    _count("round_trips", "Probes whose round trip is known: those below."),
    _us("rtt_min_us", "Least round trip, without the time in the reflector."),
    _us("rtt_median_us", "Median round trip."),
    _us("rtt_p99_us", "Round trip that 1 of 100 exceeds."),
    _us("rtt_max_us", "Greatest round trip."),
    _us("jitter_us", "Mean distance of the round trips from their median; NULL for one."),
    _us("residence_us", "Median time in the reflector."),
    _us("forward_us", "Median delay on the way there; NULL unless the offset of the clocks has a bound."),
    _us("forward_error_us", "The true median lies within `forward_us` ± this."),
    _us("forward_variation_us", "What 1 of 100 took longer on the way there than the fastest; needs no common clock."),
    _us("reverse_us", "Median delay on the way back."),
    _us("reverse_error_us", "The true median lies within `reverse_us` ± this."),
    _us("reverse_variation_us", "What 1 of 100 took longer on the way back than the fastest."),
    _us("clock_offset_us", "By how much the reflector's clock is ahead, in the middle of the window.", wide=True),
    _us("clock_error_us", "The true offset lies within `clock_offset_us` ± this.", wide=True),
    _us("skew_low_ppm", "How much faster the reflector's clock runs, at least.", unit="ppm"),
    _us("skew_high_ppm", "How much faster it runs, at most.", unit="ppm"),
    Column(
        "clocks",
        ENUM,
        "What bounds the offset: traffic both ways between `free` clocks, or two that are `synchronised` and say how "
        "well, too; `uneven`: nothing does.",
        names=("unknown", "free", "synchronised", "uneven"),
        missing="unknown",
        codec=LZ4,
    ),
    Column(
        "hops", UINT8, "Most routers on the way there.", unit="hops", missing="NULL", nullable=True, codec=LZ4,
    ),
    Column(
        "timestamps",
        ENUM,
        "Who took all times of the agent. The kernel's leave out how long its process waited for the processor.",
        names=("user", "kernel"),
        missing="user",
        codec=LZ4,
    ),
    Column(
        "reflector_timestamps",
        ENUM,
        "How the reflector takes times, as it says.",
        names=("unknown", "software", "hardware"),
        missing="unknown",
        codec=LZ4,
    ),
    Column(
        "reflector_mode",
        ENUM,
        "Whether the reflector counts its replies, so that loss has a direction.",
        names=("unknown", "stateful", "stateless"),
        missing="unknown",
        codec=LZ4,
    ),
)  # fmt: skip
"""What an agent states: the columns of its batches, which have the time as `time_us`."""

PROBES = Table(
    "probes",
    "What the probes of one session of an agent measured in one window.",
    (
        *MEASURED,
        _ratio("loss_low", "Lower end of the 95 % interval of lost ÷ sent (Wilson)."),
        _ratio("loss_high", "Upper end of the same."),
        Column("agent", NAME, "Name of the agent: that of its token.", missing="''", codec=ZSTD),
        Column("boot", UINT64, "Distinguishes the runs of the agent.", codec=ZSTD),
        Column("batch", UINT32, "Number of the batch that brought the row; each is taken once.", codec=T64),
        *map(_named, NAMED),
    ),
    order_by=("time", "agent", "session"),
    time="time",
    ttl_days=90,
)


def _end(one: str, other: str) -> str:
    return f"if(way = 'reverse', {other}, {one})"


_LATENCY = {
    "time": "time",
    "interval_us": "interval_us",
    **{
        f"{this}_{what}": _end(f"{this}_{what}", f"{that}_{what}")
        for what in ("vm", "project", "host", "vm_uuid")
        for this, that in (("src", "dst"), ("dst", "src"))
    },
    "network": "network",
    "method": "'probe'",
    "trip": "if(way = 'both', 'round_trip', 'one_way')",
    "latency_us": "toInt64(round(median))",
    "spread_us": "toUInt64(ceil(error))",
    "latency_min_us": "toInt64(round(if(way = 'both', toFloat64(assumeNotNull(rtt_min_us)), median)))",
    "jitter_us": "if(way = 'both', CAST(round(jitter_us), 'Nullable(UInt64)'), NULL)",
    "samples": "round_trips",
    "clock": "if(way = 'both', 'same', 'bounded')",
    "clock_offset_us": "if(way = 'both', NULL, "
    "CAST(round(if(way = 'forward', clock_offset_us, -clock_offset_us)), 'Nullable(Int64)'))",
    "clock_error_us": "if(way = 'both', NULL, CAST(ceil(clock_error_us), 'Nullable(UInt64)'))",
    "src_exporter": _end("src_ip", "dst_ip"),
    "dst_exporter": _end("dst_ip", "src_ip"),
}

_CHOSEN = ",\n    ".join(f"{expression} AS {name}" for name, expression in _LATENCY.items())

LATENCY_FROM_PROBES = f"""SELECT
    {_CHOSEN}
FROM (
    SELECT
        *,
        arrayJoin(['both', 'forward', 'reverse']) AS way,
        toFloat64(ifNull(multiIf(way = 'both', rtt_median_us, way = 'forward', forward_us, reverse_us), 0)) AS median,
        toFloat64(ifNull(greatest(1, multiIf(
            way = 'forward', forward_error_us, way = 'reverse', reverse_error_us,
            timestamps = 'user' OR reflector_timestamps = 'unknown', rtt_median_us - rtt_min_us,
            toFloat32(1))), 0)) AS error
    FROM probes${{local}}
    WHERE round_trips > 0
)
WHERE way = 'both' OR (forward_us IS NOT NULL AND error < median)
SETTINGS prefer_column_name_to_alias = 1"""
"""Rows of `latency`: the round trip, and each way where the error of its delay is below the delay.

The times of the kernel are those of the packets: what is left is the rounding to whole microseconds.  Those of a
process are later by what it waited for the processor, which is unknown: the distance to the least stands for it.
"""
