"""Table `drops`: one discarded-packet notice."""

from __future__ import annotations

from schemas.column import NAME, UINT8, UINT32, Column, Table
from schemas.flows import FLOWS, NAMED, ZSTD

_PACKET = [
    "time_received", "exporter", "agent", "domain", "in_if", "out_if", "drop_reason", "packets", "bytes",
    "frame_bytes", "src_mac", "dst_mac", "ether_type", "vlan", "tunnel", "vni", "outer_src_ip", "outer_dst_ip",
    "src_ip", "dst_ip", "ip_protocol", "src_port", "dst_port", "tcp_flags", "tcp_seq", "icmp_type", "icmp_code",
    "tos", "ttl", "fragment",
]  # fmt: skip

DROPS = Table(
    "drops",
    "One discarded-packet notice (sFlow format 5). Not sampled, but limited in rate by the agent.",
    (
        *(FLOWS[name] for name in _PACKET),
        Column("reason_name", NAME, "Name of `drop_reason`.", missing="''", element="sFlow 5 drop reason", codec=ZSTD),
        Column("source_class", UINT8, "sFlow data source class.", element="sFlow 5 discarded_packet", codec=ZSTD),
        Column("source_index", UINT32, "sFlow data source index.", element="sFlow 5 discarded_packet", codec=ZSTD),
        Column(
            "suppressed",
            UINT32,
            "Notices that the agent's rate limit held back since its last notice for this source: "
            "rows + suppressed is a lower bound of the drops.",
            unit="packets",
            element="sFlow 5 discarded_packet.drops",
            codec=ZSTD,
        ),
        Column("function", NAME, "Software function that dropped the packet.", missing="''", element="sFlow 1038"),
        Column("trap", NAME, "Hardware trap, `group/trap`.", missing="''", element="sFlow 1041"),
        Column("linux_reason", NAME, "Reason as the Linux kernel names it.", missing="''", element="sFlow 1042"),
        *NAMED,
    ),
    order_by=("time_received", "agent"),
    time="time_received",
    ttl_days=30,
)
