"""Rows of the Open vSwitch database → interfaces and hosts (facts 6.4).

Rows come from the library's replica: a column is an attribute; optional values are lists of none or one, maps are
dictionaries, references are rows.  What a row holds was written by many programs: a value that is none costs that
value only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import numpy as np

from collector.enrich.counter_rows import Poll
from collector.enrich.settings import OvsdbSettings
from collector.enrich.source import NO_UUID, Address, Host, Interface, PortKind
from decoders.rows import ABSENT
from schemas.counters import TOTALS

Tables = Mapping[str, Sequence[Any]]
"""Rows by table."""

STATISTICS = "statistics"
COLUMNS: dict[str, tuple[str, ...]] = {
    "Open_vSwitch": ("external_ids",),
    "Bridge": ("name", "ports", "sflow"),
    "Port": ("name", "interfaces", "tag", "other_config"),
    "Interface": (
        "name", "ofport", "ifindex", "external_ids", "type", "options", "link_speed", "ingress_policing_rate",
    ),
    "sFlow": ("agent",),
}  # fmt: skip
"""What is replicated."""

TUNNELS = frozenset(
    {"vxlan", "geneve", "gre", "ip6gre", "erspan", "ip6erspan", "lisp", "stt", "gtpu", "bareudp", "srv6"}
)
MAX_TEXT = 255
_STATISTICS = {
    "in_octets": "rx_bytes",
    "in_unicast_packets": "rx_packets",
    "in_discards": "rx_dropped",
    "in_errors": "rx_errors",
    "out_octets": "tx_bytes",
    "out_unicast_packets": "tx_packets",
    "out_discards": "tx_dropped",
    "out_errors": "tx_errors",
}
"""Total of `interface_counters` → key of Interface.statistics: rx is what the switch receives from the port."""


def interfaces(tables: Tables, host: str) -> tuple[Interface, ...]:
    """All ports of all bridges."""
    found: list[Interface] = []
    for bridge in tables["Bridge"]:
        keys = tunnel_keys(bridge)
        for port in bridge.ports:
            for row in port.interfaces:
                found.append(_interface(host, bridge.name, port, row, keys))
    return tuple(found)


def hosts(tables: Tables, settings: OvsdbSettings, remote: Address | None) -> tuple[Host, ...]:
    """The one hypervisor, with the addresses under which it exports and ends tunnels."""
    ids = tables["Open_vSwitch"][0].external_ids if tables["Open_vSwitch"] else {}
    name = settings.host or ids.get("hostname") or ids.get("system-id") or settings.remote
    stated = [row.agent[0] for row in tables["sFlow"] if row.agent]
    stated += [row.options.get("local_ip", "") for row in tables["Interface"]]
    stated += ids.get("ovn-encap-ip", "").split(",")
    addresses = [*settings.exporters, *(a for text in stated if (a := _address(text)) is not None)]
    if remote is not None:
        addresses.append(remote)
    return (Host(name=name[:MAX_TEXT], addresses=tuple(dict.fromkeys(addresses))),)


def tunnel_keys(bridge: Any) -> dict[int, int]:
    """VNI by access tag, where a tunnel port with a fixed key has that tag; tags with two keys are left out."""
    keys: dict[int, set[int]] = {}
    for port in bridge.ports:
        tag = _first(port.tag)
        for row in port.interfaces:
            key = str(row.options.get("key", ""))
            if row.type in TUNNELS and tag and key.isdigit():
                keys.setdefault(tag, set()).add(int(key))
    return {tag: found.pop() for tag, found in keys.items() if len(found) == 1}


def _interface(host: str, bridge: str, port: Any, row: Any, keys: Mapping[int, int]) -> Interface:
    ids = row.external_ids
    vlan, vni, network = _segment(port, keys)
    uuid = _uuid(ids.get("vm-id") or ids.get("vm-uuid") or "")
    of_vm = uuid != NO_UUID or (row.type != "internal" and ("iface-id" in ids or "attached-mac" in ids))
    return Interface(
        host=host,
        port_name=row.name[:MAX_TEXT],
        if_index=max(0, _first(row.ifindex)),
        of_port=max(0, _first(row.ofport)),
        bridge=bridge[:MAX_TEXT],
        kind=_kind(row, of_vm),
        mac=_mac(ids.get("attached-mac", "")) if of_vm else 0,
        vm_uuid=uuid,
        network=network,
        vni=vni,
        vlan=vlan,
        port_id=ids.get("iface-id", "")[:MAX_TEXT] if of_vm else "",
        speed=1000 * row.ingress_policing_rate or max(0, _first(row.link_speed)),
    )


def _kind(row: Any, of_vm: bool) -> PortKind:
    if of_vm:
        return PortKind.VM
    if row.type in TUNNELS:
        return PortKind.TUNNEL
    # A system port without ids may be an uplink, or a tap that somebody added by hand.
    return {"patch": PortKind.PATCH, "internal": PortKind.OTHER}.get(row.type, PortKind.UNKNOWN)


def _segment(port: Any, keys: Mapping[int, int]) -> tuple[int, int, str]:
    """(VLAN on the wire, VNI, network) of a port.

    Neutron's agent writes them into other_config, because the tags of its bridge mean nothing outside of it.  Without
    Neutron a tag is the VLAN, unless a tunnel with a fixed key serves this tag.
    """
    config = port.other_config
    if "segmentation_id" in config or "net_uuid" in config:
        segment = config.get("segmentation_id", "")
        number = int(segment) if segment.isdigit() else 0
        tunnelled = config.get("network_type") in ("vxlan", "geneve", "gre")
        vlan = number if config.get("network_type") == "vlan" and number < 4096 else 0
        return vlan, number if tunnelled else 0, config.get("net_uuid", "")[:MAX_TEXT]
    tag = _first(port.tag)
    return (0, keys[tag], "") if tag in keys else (tag, 0, "")


def counters(tables: Tables, *, wall_us: int, monotonic_us: int) -> Poll:
    """The statistics of all interfaces that have some."""
    rows = [row for row in tables["Interface"] if row.statistics]
    totals = np.full((len(TOTALS), len(rows)), ABSENT, np.uint64)
    for number, (name, *_) in enumerate(TOTALS):
        if key := _STATISTICS.get(name):
            values = (row.statistics.get(key, -1) for row in rows)
            totals[number] = np.fromiter(values, np.int64, len(rows)).view(np.uint64)
    return Poll(
        keys=[row.uuid for row in rows],
        names=[row.name[:MAX_TEXT] for row in rows],
        if_index=np.array([max(0, _first(row.ifindex)) for row in rows], np.uint32),
        # A port that is deleted and made anew has another row.
        epochs=np.zeros(len(rows), np.int64),
        totals=totals,
        wall_us=wall_us,
        monotonic_us=monotonic_us,
    )


def _first(values: Iterable[int]) -> int:
    """The value of an optional column, 0 if it has none."""
    return next(iter(values), 0)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return NO_UUID


def _mac(text: str) -> int:
    digits = text.replace(":", "").replace("-", "")
    try:
        return int(digits, 16) if len(digits) == 12 else 0
    except ValueError:
        return 0


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if address.is_unspecified or address.is_loopback else address
