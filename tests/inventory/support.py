"""What the tests of the inventory share: the testbed's inventory as sources would state it, captures as named rows."""

from __future__ import annotations

import json
from functools import cache
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pyarrow as pa

from collector.capture.read import read_batches
from collector.inventory.history import History
from collector.inventory.naming import Namer
from collector.inventory.snapshot import build
from collector.inventory.sources.base import Host, Interface, PortKind
from decoders.decoder import Decoder
from schemas.column import ADDRESS, ENUM, NAME, Origin
from schemas.flows import FLOWS
from schemas.inventory import Rank
from tests.decoders.support import PCAPS, address, mac, rows

HISTORY_US = 3_600_000_000
GRACE_US = 3_000_000
KINDS = {"vxlan": PortKind.TUNNEL, "patch": PortKind.PATCH, "internal": PortKind.OTHER}


def load(name: str) -> dict[str, Any]:
    """A JSON file of a capture."""
    found: dict[str, Any] = json.loads((PCAPS / name).read_text())
    return found


def hosts() -> tuple[Host, ...]:
    """The two hypervisors: export addresses and tunnel end points (README of the captures)."""
    return tuple(
        Host(
            name=f"host-{letter}",
            addresses=(ip_address(f"192.0.2.{n}"), ip_address(f"198.51.100.{n}"), ip_address(f"2001:db8:99::{n}")),
        )
        for letter, n in (("a", 11), ("b", 12))
    )


def vms(counters: dict[str, Any], *, with_ips: bool = True) -> tuple[Interface, ...]:
    """The VMs of a truth file's `nic_counters`, or of an inventory's `vms`, as a source with ports would state them."""
    return tuple(
        Interface(
            host=vm["host"],
            port_name=vm["port"],
            mac=mac(vm["mac"]),
            vm=vm["vm"],
            vm_uuid=UUID(vm["uuid"]),
            project="provider" if vm["tag"] == 10 else "overlay",
            network="vlan10" if vm["tag"] == 10 else "vni5001",
            vlan=10 if vm["tag"] == 10 else 0,
            vni=0 if vm["tag"] == 10 else 5001,
            ips=(ip_address(vm["ip4"]), ip_address(vm["ip6"])) if with_ips else (),
        )
        for vm in counters.values()
    )


def switches() -> tuple[Interface, ...]:
    """The ports of both hypervisors, as OVSDB has them: vnet1 has ifIndex 7 and OpenFlow port 3, and so on.

    vnet102 is the port of VM a2 in the captures that were made after it had moved to host b and back.
    """
    found = []
    for host in ("host-a", "host-b"):
        plain = (("vxlan0", "br-int", 1, 0, "vxlan"), ("patch-phy", "br-int", 2, 0, "patch"),
                 ("under0", "br-phy", 1, 3, "uplink"), ("patch-int", "br-phy", 2, 0, "patch"),
                 ("br-int", "br-int", 65534, 6, "internal"), ("br-phy", "br-phy", 65534, 5, "internal"))  # fmt: skip
        found += [
            Interface(
                host=host,
                port_name=name,
                bridge=bridge,
                of_port=port,
                if_index=index,
                kind=KINDS.get(kind, PortKind.OTHER),
            )
            for name, bridge, port, index, kind in plain
        ]
        found += [
            Interface(host=host, port_name=name, bridge="br-int", if_index=index, of_port=port)
            for name, index, port in (*((f"vnet{n}", 6 + n, 2 + n) for n in (1, 2, 3)), ("vnet102", 10, 6))
        ]
    return tuple(found)


def ovsdb(inventory: dict[str, Any]) -> tuple[Interface, ...]:
    """The ports in `X.inventory.json`, as the OVSDB source would state them."""
    found = []
    for host, known in inventory["hosts"].items():
        for name, of_port, if_index, kind, _mac, external in known["interfaces"]["data"]:
            ids = dict(external[1])
            found.append(
                Interface(
                    host=host,
                    port_name=name,
                    of_port=of_port,
                    if_index=if_index,
                    mac=mac(ids.get("attached-mac", "")),
                    vm_uuid=UUID(ids["vm-id"]) if "vm-id" in ids else UUID(int=0),
                    port_id=ids.get("iface-id", ""),
                    kind=PortKind.VM if ids else KINDS.get(kind, PortKind.OTHER),
                    bridge="br-phy" if name in ("under0", "patch-int", "br-phy") else "br-int",
                )
            )
    return tuple(found)


def history() -> History:
    """An empty inventory."""
    return History(capacity=10_000, history_us=HISTORY_US, short_names=True)


def known_of(stem: str) -> History:
    """The inventory of a capture without a move, known from the beginning."""
    known = history()
    known.apply("vms", Rank.LIBVIRT, vms(load(f"{stem}.truth.json")["nic_counters"]), hosts(), at_us=1)
    known.apply("ports", Rank.OVSDB, switches(), (), at_us=1)
    return known


def namer(known: History) -> Namer:
    """A join with all that `known` holds now."""
    found = Namer(HISTORY_US, GRACE_US)
    found.snapshot = build(known.columns, known.addresses())
    return found


@cache
def decoded(stem: str) -> tuple[tuple[pa.RecordBatch, ...], tuple[pa.RecordBatch, ...]]:
    """Flows and counters of a capture."""
    decoder = Decoder()
    parts = [decoder.decode(batch) for batch in read_batches(PCAPS / f"{stem}.pcap")]
    return tuple(b for part in parts for b in part.flows), tuple(b for part in parts for b in part.counters)


def named(stem: str, known: History) -> list[dict[str, Any]]:
    """The flows of a capture with names."""
    join = namer(known)
    return rows([join.flows(batch) for batch in decoded(stem)[0]])


def flow(**values: Any) -> pa.RecordBatch:
    """One decoded row of `flows`; what is not given is missing.  Addresses and MACs as text, times in µs."""
    columns = []
    for column in FLOWS.stored:
        if column.origin is not Origin.DECODE:
            continue
        value = values.pop(column.name, None)
        if column.arrow == ENUM:
            number = column.code(value) if value else 0
            columns.append(
                pa.DictionaryArray.from_arrays(pa.array([number], pa.int8()), pa.array(column.names, pa.string()))
            )
        elif column.arrow == NAME:
            # Decoders give all columns one dictionary.
            columns.append((column.name, value or ""))
        elif column.arrow == ADDRESS:
            columns.append(pa.array([address(value or "")], ADDRESS))
        else:
            columns.append(pa.array([mac(value) if isinstance(value, str) else value or 0], column.arrow))
    assert not values, f"no such columns: {sorted(values)}"
    names = pa.array(["", *sorted({column[1] for column in columns if isinstance(column, tuple)} - {""})], pa.string())
    arrays = [
        pa.DictionaryArray.from_arrays(pa.array([names.index(column[1]).as_py()], pa.int32()), names)
        if isinstance(column, tuple)
        else column
        for column in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=FLOWS.arrow(Origin.DECODE))


def name_one(known: History, **values: Any) -> dict[str, Any]:
    """The named row of one flow."""
    values.setdefault("time_received", 10_000_000)
    values.setdefault("flow_end", values["time_received"])
    return rows([namer(known).flows(flow(**values))])[0]
