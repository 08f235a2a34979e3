"""Table `inventory`: one VM interface for a validity interval."""

from __future__ import annotations

import pyarrow as pa

from schemas.column import ADDRESS, ENUM, NAME, TIME_US, UINT32, UINT64, UUID, Column, Table
from schemas.flows import DELTA, IPV6, ZSTD, mac_text

INVENTORY = Table(
    "inventory",
    "One VM interface, as one source knew it for an interval of time.",
    (
        Column("valid_from", TIME_US, "First time this was known to hold.", unit="µs since 1970", codec=DELTA),
        Column("valid_to", TIME_US, "Last time this was known to hold.", unit="µs since 1970", codec=DELTA),
        Column(
            "source",
            ENUM,
            "Who said so.",
            names=("sflow", "libvirt", "ovsdb", "openstack", "static", "interface_name"),
            codec=ZSTD,
        ),
        Column("vm_uuid", UUID, "UUID of the VM.", clickhouse_type="UUID", missing="zeros", codec=ZSTD),
        Column("vm", NAME, "Name of the VM.", missing="''", codec=ZSTD),
        Column("project", NAME, "Project of the VM.", missing="''", codec=ZSTD),
        Column("host", NAME, "Hypervisor of the VM; the sFlow agent address where no name is known.", missing="''"),
        Column("network", NAME, "Virtual network of the interface.", missing="''", codec=ZSTD),
        Column("mac", UINT64, "MAC address as a 48-bit number.", codec=ZSTD),
        Column("mac_text", UINT64, "MAC address in its usual form.", clickhouse_type="String", alias=mac_text("mac")),
        Column(
            "ips",
            pa.list_(ADDRESS),
            "Addresses of the interface; IPv4 is mapped.",
            clickhouse_type=f"Array({IPV6})",
            missing="[]",
            codec=ZSTD,
        ),
        Column("port_name", NAME, "Name of the port on the hypervisor.", missing="''", codec=ZSTD),
        Column("if_index", UINT32, "ifIndex on the hypervisor.", codec=ZSTD),
        Column("agent", ADDRESS, "sFlow agent of the hypervisor.", clickhouse_type=IPV6, missing="::", codec=ZSTD),
    ),
    order_by=("mac", "valid_from"),
    time="valid_to",
    ttl_days=365,
    partition="toYYYYMM",
)
