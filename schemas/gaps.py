"""Table `gaps`: when a stream, or the service itself, did not report all packets."""

from __future__ import annotations

from schemas.column import ADDRESS, ENUM, TIME_US, Column, Table
from schemas.flows import DELTA, FLOWS, LZ4
from schemas.rollups import STREAM_KEYS

REPORTER, DOMAIN = STREAM_KEYS

GAPS = Table(
    "gaps",
    "One time in which a stream, or the service, did not report all packets. Windows that it touches prove no loss.",
    (
        Column(
            "begins",
            TIME_US,
            "From here on packets may be missing: the last datagram before, less the time that records wait in caches.",
            unit="µs since 1970",
            codec=DELTA,
        ),
        Column("ends", TIME_US, "From here on all packets are reported again.", unit="µs since 1970", codec=DELTA),
        Column(
            "reporter",
            ADDRESS,
            "The agent that sFlow names, else the sender; `::` for the service itself, and so for all streams.",
            clickhouse_type="IPv6",
            missing="`::`",
            codec=LZ4,
        ),
        DOMAIN,
        FLOWS["protocol"],
        Column(
            "reason",
            ENUM,
            "`started`: the first datagram of a stream that was not known; `reopened`: the same exporter from another "
            "port; `restarted`: its sequence or uptime began again; `lost`: numbers are missing; `away`: the service "
            "did not run; `dropped`: the service or the kernel dropped datagrams; `silent`: the stream ended, or "
            "paused for long.",
            names=("started", "reopened", "restarted", "lost", "away", "dropped", "silent"),
            codec=LZ4,
        ),
    ),
    order_by=("ends", "reporter"),
    time="ends",
    ttl_days=400,
    partition="toYYYYMM",
)
