"""Table `inventory`: one VM interface for a validity interval.

An interval is written again from time to time while it is valid, with a later `valid_to`, and once more when it ends.
The engine keeps the newest of the rows with the same sorting key; query with FINAL to see no older one.
"""

from __future__ import annotations

from enum import IntEnum

import pyarrow as pa

from schemas.column import ADDRESS, ENUM, NAME, TIME_US, UINT8, UINT16, UINT32, UINT64, UUID, Column, Table
from schemas.flows import DELTA, IPV6, ZSTD, mac_text


class Rank(IntEnum):
    """Kinds of sources, best first: where two differ, the lower number is believed."""

    LIBVIRT = 0
    OVSDB = 1
    OPENSTACK = 2
    STATIC = 3
    SFLOW = 4
    """sFlow host structures 2000, 2001, 2002, sent by host-sflow on the hypervisor."""
    INTERFACE_NAME = 5
    """Interface names in the stream: sFlow port names (1005), IPFIX interfaceName(82)."""

    @property
    def column_name(self) -> str:
        """Its name in the tables."""
        return self.name.lower()


SOURCES = ("sflow", "libvirt", "ovsdb", "openstack", "static", "interface_name")
"""In the order of their codes in the tables: a new one goes to the end."""
COUNTER_SOURCES = ("sflow", "libvirt", "ovsdb")
"""Those that read counters; as above."""

INVENTORY = Table(
    "inventory",
    "One VM interface on one hypervisor for an interval of time, put together from all sources. Ask with FINAL.",
    (
        Column("valid_from", TIME_US, "First time this was known to hold.", unit="µs since 1970", codec=DELTA),
        Column("valid_to", TIME_US, "Last time this was known to hold.", unit="µs since 1970", codec=DELTA),
        Column("open", UINT8, "1 while it holds, 0 once it has ended at `valid_to`.", codec=ZSTD),
        Column(
            "source",
            ENUM,
            "The best source that knows this interface.",
            names=SOURCES,
            codec=ZSTD,
        ),
        Column("sources", NAME, "All sources that know it, best first, joined by commas.", missing="''", codec=ZSTD),
        Column("vm_uuid", UUID, "UUID of the VM.", clickhouse_type="UUID", missing="zeros", codec=ZSTD),
        Column("vm", NAME, "Name of the VM.", missing="''", codec=ZSTD),
        Column("project", NAME, "Project of the VM.", missing="''", codec=ZSTD),
        Column("host", NAME, "Hypervisor of the VM; the sFlow agent address where no name is known.", missing="''"),
        Column("network", NAME, "Virtual network of the interface.", missing="''", codec=ZSTD),
        Column("vni", UINT32, "VXLAN or Geneve network identifier of the network.", codec=ZSTD),
        Column("vlan", UINT16, "VLAN id of the network on the wire.", codec=ZSTD),
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
        Column("of_port", UINT32, "OpenFlow port number on `bridge`.", codec=ZSTD),
        Column("bridge", NAME, "Open vSwitch bridge of the port.", missing="''", codec=ZSTD),
        Column("port_id", NAME, "Logical port: Neutron port id, OVS iface-id.", missing="''", codec=ZSTD),
        Column("speed", UINT64, "What limits the interface.", unit="bit/s", codec=ZSTD),
        Column(
            "agent", ADDRESS, "First export address of the hypervisor.", clickhouse_type=IPV6, missing="::", codec=ZSTD
        ),
        Column("conflict", NAME, "Where sources differ: `field: who says what`.", missing="''", codec=ZSTD),
    ),
    order_by=("mac", "valid_from", "vm_uuid", "host", "port_name", "vm", "network", "vni", "vlan"),
    time="valid_to",
    engine="ReplacingMergeTree(valid_to)",
    ttl_days=365,
    partition="toYYYYMM",
)
