"""Table `interface_counters`: one poll of one interface."""

from __future__ import annotations

from schemas.column import ENUM, NAME, NAMED_UUID, UINT8, UINT32, UINT64, Column, Origin, Table
from schemas.flows import T64, WHERE_FROM, ZSTD
from schemas.inventory import COUNTER_SOURCES

TOTALS = (
    ("in_bytes", "bytes", "Bytes received by the switch from this interface", "ifInOctets"),
    ("in_unicast_packets", "packets", "Packets received; Open vSwitch counts all packets here", "ifInUcastPkts"),
    ("in_multicast_packets", "packets", "Multicast packets received", "ifInMulticastPkts"),
    ("in_broadcast_packets", "packets", "Broadcast packets received", "ifInBroadcastPkts"),
    ("in_discards", "packets", "Good packets received and discarded", "ifInDiscards"),
    ("in_errors", "packets", "Broken packets received", "ifInErrors"),
    ("in_unknown_protocols", "packets", "Packets received of an unknown protocol", "ifInUnknownProtos"),
    ("out_bytes", "bytes", "Bytes sent by the switch to this interface", "ifOutOctets"),
    ("out_unicast_packets", "packets", "Packets sent; Open vSwitch counts all packets here", "ifOutUcastPkts"),
    ("out_multicast_packets", "packets", "Multicast packets sent", "ifOutMulticastPkts"),
    ("out_broadcast_packets", "packets", "Broadcast packets sent", "ifOutBroadcastPkts"),
    ("out_discards", "packets", "Good packets to be sent and discarded", "ifOutDiscards"),
    ("out_errors", "packets", "Packets that could not be sent for errors", "ifOutErrors"),
)
"""Running totals of the generic counters, in the order in which sFlow structure 1 sends them."""

ETHERNET = (
    "alignment_errors", "fcs_errors", "single_collisions", "multiple_collisions", "sqe_test_errors",
    "deferred_transmissions", "late_collisions", "excessive_collisions", "mac_transmit_errors",
    "carrier_sense_errors", "frame_too_longs", "mac_receive_errors", "symbol_errors",
)  # fmt: skip
"""Ethernet error counters, in the order of sFlow structure 2."""

COUNTERS = Table(
    "interface_counters",
    "One poll of one interface: totals as read, and the difference to the poll before.",
    (
        *(column for column in WHERE_FROM if column.name != "protocol"),
        Column("source", ENUM, "Who read the counters.", names=COUNTER_SOURCES, codec=ZSTD),
        Column(
            "source_class",
            UINT8,
            "sFlow data source class: 0 interface, 2 physical entity (host), 3 logical entity (VM).",
            element="sFlow 5 source_id",
            codec=ZSTD,
        ),
        Column("source_index", UINT32, "sFlow data source index.", element="sFlow 5 source_id", codec=ZSTD),
        Column("if_index", UINT32, "ifIndex, unique only within one agent.", element="ifIndex", codec=ZSTD),
        Column("if_name", NAME, "Interface name.", missing="''", element="sFlow 5 port_name (1005)", codec=ZSTD),
        Column("if_type", UINT32, "IANA interface type.", element="ifType", codec=ZSTD),
        Column(
            "if_speed",
            UINT64,
            "Speed as stated. Open vSwitch states 100 Mbit/s for taps, and wrapped values above 4 Gbit/s since 3.2.",
            unit="bit/s",
            element="ifSpeed",
            codec=T64,
        ),
        Column("if_direction", UINT8, "0 unknown, 1 full duplex, 2 half, 3 in, 4 out.", element="ifDirection"),
        Column("if_status", UINT8, "Bit 0 administratively up, bit 1 operationally up.", element="ifStatus"),
        Column("promiscuous", UINT8, "1 if the interface is promiscuous.", element="ifPromiscuousMode"),
        Column(
            "datapath_id", UINT64, "OpenFlow datapath id of the bridge.", element="sFlow of_port (1004)", codec=ZSTD
        ),
        Column("of_port", UINT32, "OpenFlow port number on that bridge.", element="sFlow of_port (1004)", codec=ZSTD),
        *(
            Column(name, UINT64, f"{doc}, total.", unit=unit, element=element, missing="NULL", nullable=True, codec=T64)
            for name, unit, doc, element in TOTALS
        ),
        *(
            Column(
                f"eth_{name}",
                UINT64,
                f"Ethernet counter {name.replace('_', ' ')}, total.",
                unit="frames",
                element="sFlow ethernet_counters (2)",
                missing="NULL",
                nullable=True,
                codec=T64,
            )
            for name in ETHERNET
        ),
        Column(
            "delta_state",
            ENUM,
            "Whether the differences hold: `first` poll, `ok`, or the counters were `reset` in between.",
            names=("first", "ok", "reset"),
            codec=ZSTD,
        ),
        Column(
            "interval_us",
            UINT64,
            "Time between this poll and the one before, by the agent's uptime.",
            unit="µs",
            missing="NULL",
            nullable=True,
            codec=T64,
        ),
        *(
            Column(
                f"{name}_delta",
                UINT64,
                f"{doc}, since the poll before.",
                unit=unit,
                missing="NULL",
                nullable=True,
                codec=T64,
            )
            for name, unit, doc, _ in TOTALS
        ),
        *(
            Column(name, NAME, doc, missing="''", origin=Origin.ENRICH, codec=ZSTD)
            for name, doc in (
                ("vm", "VM that the interface belongs to."),
                ("project", "Project of the VM."),
                ("host", "Hypervisor that has the interface."),
                ("network", "Virtual network of the interface."),
            )
        ),
        Column(
            "vm_uuid",
            NAMED_UUID,
            "UUID of the VM.",
            missing="zeros",
            origin=Origin.ENRICH,
            codec=ZSTD,
        ),
        Column("mac", UINT64, "MAC address of the VM's side.", origin=Origin.ENRICH, codec=ZSTD),
    ),
    order_by=("time_received", "agent", "if_index"),
    time="time_received",
    ttl_days=30,
)
