"""Table `latency`: the latency of one VM pair in one window by one method."""

from __future__ import annotations

import pyarrow as pa

from schemas.column import ADDRESS, ENUM, NAME, TIME_US, UINT32, UINT64, UUID, Column, Table
from schemas.flows import DELTA, IPV6, LZ4, T64, ZSTD


def _name(name: str, doc: str) -> Column:
    return Column(name, NAME, doc, missing="''", codec=ZSTD)


def _uuid(name: str, doc: str) -> Column:
    return Column(name, UUID, doc, clickhouse_type="UUID", missing="zeros", codec=ZSTD)


def _address(name: str, doc: str) -> Column:
    return Column(name, ADDRESS, doc, clickhouse_type=IPV6, missing="::", codec=ZSTD)


def _signed_us(name: str, doc: str, *, nullable: bool = False) -> Column:
    missing = "NULL" if nullable else "0"
    kind = pa.int64()
    return Column(
        name, kind, doc, unit="µs", clickhouse_type="Int64", missing=missing, nullable=nullable, codec="T64, LZ4"
    )


LATENCY = Table(
    "latency",
    "Latency of one VM pair in one window by one method, with its uncertainty.",
    (
        Column(
            "time",
            TIME_US,
            "Begin of the window that the readings fall into, by the time of their first packet (`tcp_info`: of their "
            "receipt; `probe`: of sending).",
            unit="µs since 1970",
            codec=DELTA,
        ),
        Column("interval_us", UINT64, "Length of the window; 0 for a single reading.", unit="µs", codec=T64),
        _name("src_vm", "Name of the sending VM; with `handshake`, of the one that asked."),
        _name("dst_vm", "Name of the receiving VM; with `handshake`, of the one that answered."),
        _name("src_project", "Project of the sending VM."),
        _name("dst_project", "Project of the receiving VM."),
        _name("src_host", "Hypervisor of the sending VM."),
        _name("dst_host", "Hypervisor of the receiving VM."),
        _name("network", "Virtual network of the flow."),
        _uuid("src_vm_uuid", "UUID of the sending VM."),
        _uuid("dst_vm_uuid", "UUID of the receiving VM."),
        Column(
            "method",
            ENUM,
            "How it was measured: start of a TCP connection and of its answer at one switch (`handshake`), first "
            "packet of a flow at two switches (`one_way`), round trip as a host states it (`tcp_info`), active "
            "`probe`, mirrored packets (`mirror`).",
            names=("handshake", "one_way", "tcp_info", "probe", "mirror"),
            codec=LZ4,
        ),
        Column("trip", ENUM, "What the time is for.", names=("one_way", "round_trip"), missing="one_way", codec=LZ4),
        _signed_us(
            "latency_us", "Median of the readings. One way it may be below 0, by no more than `spread_us`, near 0."
        ),
        Column(
            "spread_us",
            UINT64,
            "Uncertainty: the true median lies within `latency_us` ± this. From the resolution of the exporter's clock "
            "and, with two clocks, the bound of their offset; with `tcp_info` the median of the mean deviations that "
            "TCP states. How readings differ is `jitter_us`.",
            unit="µs",
            codec=T64,
        ),
        _signed_us(
            "latency_min_us",
            "Least of the readings, with the same uncertainty; of a `probe` one way, which is not known, the median.",
        ),
        Column(
            "jitter_us",
            UINT64,
            "Mean distance of the readings from their median; the offset of clocks has no part in it. NULL for one "
            "reading. With `tcp_info` the mean of the mean deviations that TCP states.",
            unit="µs",
            missing="NULL",
            nullable=True,
            codec=T64,
        ),
        Column("samples", UINT32, "Readings.", unit="readings", codec=LZ4),
        Column(
            "clock",
            ENUM,
            "Which clocks took part: one and the `same`, or two whose offset is `bounded` by traffic both ways.",
            names=("same", "bounded"),
            missing="same",
            codec=LZ4,
        ),
        _signed_us(
            "clock_offset_us",
            "Estimate of clock at destination − clock at source, taken out of `latency_us`; NULL with one clock.",
            nullable=True,
        ),
        Column(
            "clock_error_us",
            UINT64,
            "The true offset lies within `clock_offset_us` ± this. NULL with one clock.",
            unit="µs",
            missing="NULL",
            nullable=True,
            codec=T64,
        ),
        _address("src_exporter", "Exporter that saw the packets at the source; of a `probe` the address of that end."),
        _address(
            "dst_exporter",
            "Exporter that saw them at the destination; with `handshake` the same; of a `probe` the "
            "address of that end.",
        ),
    ),
    order_by=("time", "src_vm_uuid", "dst_vm_uuid"),
    time="time",
    ttl_days=90,
)
