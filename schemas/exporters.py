"""Table `exporters`: one exporter over one interval, with the three losses that are not the network's."""

from __future__ import annotations

import pyarrow as pa

from schemas.column import NAME, TIME_US, UINT32, UINT64, Column, Table
from schemas.flows import DELTA, T64, WHERE_FROM, ZSTD


def _count(name: str, doc: str, unit: str) -> Column:
    return Column(name, UINT64, doc, unit=unit, codec=T64)


EXPORTERS = Table(
    "exporters",
    "What one exporter stream sent in one interval and what of it was lost. Of the rows with exporter `::` one is the "
    "collector itself; another, where it is needed, is the sum of all streams that were forgotten for new ones before "
    "they were reported, and of those for which there was no room.",
    (
        Column("time", TIME_US, "End of the interval.", unit="µs since 1970", codec=DELTA),
        Column("interval_us", UINT64, "Length of the interval.", unit="µs", codec=T64),
        *(column for column in WHERE_FROM if column.name != "time_received"),
        Column("source_port", UINT32, "Source port of the stream; 0 for sFlow.", codec=ZSTD),
        _count("datagrams", "Datagrams received; over TCP, IPFIX messages.", "datagrams"),
        _count("bytes", "Bytes of payload received.", "bytes"),
        _count("records", "Flow rows decoded.", "rows"),
        _count("counter_records", "Interface counter rows decoded.", "rows"),
        _count(
            "export_lost",
            "Missing by the sequence numbers: datagrams (sFlow, NetFlow v9) or records (NetFlow v5, v7, IPFIX).",
            "see `protocol`",
        ),
        _count("samples_lost", "sFlow samples missing by the sample sequence numbers.", "samples"),
        _count("agent_drops", "Samples that the agent says it lost itself.", "samples"),
        _count("datapath_lost", "Open vSwitch upcalls lost (sFlow 2207).", "packets"),
        _count("duplicates", "Datagrams received twice, dropped.", "datagrams"),
        _count("reordered", "Datagrams received late.", "datagrams"),
        _count("restarts", "Restarts of the exporter seen.", "restarts"),
        _count("templates", "Templates known at the end of the interval.", "templates"),
        Column(
            "template_age_us",
            UINT64,
            "Time since the last template came, at the end of the interval; NULL where there are none.",
            unit="µs",
            missing="NULL",
            nullable=True,
            codec=T64,
        ),
        _count("held_bytes", "Bytes held until their template arrives, at the end of the interval.", "bytes"),
        Column(
            "problems",
            pa.map_(pa.string(), UINT64),
            "Decode problems by reason.",
            unit="problems",
            clickhouse_type="Map(LowCardinality(String), UInt64)",
            missing="{}",
        ),
        Column("sampling_rate", UINT32, "Last sampling rate stated; 0 = never stated.", codec=ZSTD),
        Column(
            "clock_skew_us",
            pa.int64(),
            "Export time − receive time of the last datagram; NULL where the protocol states no time.",
            unit="µs",
            clickhouse_type="Int64",
            missing="NULL",
            nullable=True,
            codec=T64,
        ),
        _count("kernel_drops", "Datagrams the kernel dropped at our sockets (collector row only).", "datagrams"),
        _count("queue_drops", "Datagrams or rows dropped at our own queues (collector row only).", "datagrams or rows"),
        Column(
            "findings",
            NAME,
            "Codes of what the exporter doctor found, joined by commas (`vmflow exporters --doctor` explains them).",
            missing="''",
            codec=ZSTD,
        ),
    ),
    order_by=("time", "exporter"),
    time="time",
    ttl_days=90,
)
