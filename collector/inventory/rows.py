"""Intervals of the inventory as rows of table `inventory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from collector.inventory.history import FOREVER, History, Interval
from collector.inventory.sources.base import Address, sixteen
from schemas.inventory import INVENTORY


def inventory_rows(
    history: History, intervals: Sequence[Interval], agents: Mapping[str, Address]
) -> pa.RecordBatch | None:
    """Return rows of those intervals that are VM interfaces; None if there are none.

    `agents` names an address of each hypervisor.  Rows of an interval agree in the table's sorting key, so a later one
    replaces the earlier.
    """
    shown = [interval for interval in intervals if interval.placement.interface.mac]
    if not shown:
        return None
    of = [interval.placement.interface for interval in shown]
    placements = [interval.placement for interval in shown]
    columns: dict[str, list[Any]] = {
        "valid_from": [interval.known_from for interval in shown],
        "valid_to": [history.heard_us(interval) for interval in shown],
        "open": [int(interval.valid_to == FOREVER) for interval in shown],
        "source": [placement.ranks[0].column_name for placement in placements],
        "sources": [",".join(rank.column_name for rank in placement.ranks) for placement in placements],
        "vm_uuid": [interface.vm_uuid.bytes for interface in of],
        "vm": [interface.vm for interface in of],
        "project": [interface.project for interface in of],
        "host": [interface.host for interface in of],
        "network": [interface.network for interface in of],
        "vni": [interface.vni for interface in of],
        "vlan": [interface.vlan for interface in of],
        "mac": [interface.mac for interface in of],
        "ips": [[sixteen(address) for address in interface.ips] for interface in of],
        "port_name": [interface.port_name for interface in of],
        "if_index": [interface.if_index for interface in of],
        "of_port": [interface.of_port for interface in of],
        "bridge": [interface.bridge for interface in of],
        "port_id": [interface.port_id for interface in of],
        "speed": [interface.speed for interface in of],
        "agent": [sixteen(agents.get(interface.host)) for interface in of],
        "conflict": [placement.conflict for placement in placements],
    }
    return INVENTORY.batch(columns)
