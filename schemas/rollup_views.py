"""All materialised views that fill the rollups: what each inserted block of rows adds to which window."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

from schemas.burst_feed import bursts_from_flows
from schemas.feed import Feed, add_up, coarser, names
from schemas.flow_feed import pairs_from_flows
from schemas.interface_feed import interfaces_from_counters
from schemas.rollups import (
    DIRECTION,
    HOST_KEYS,
    HOSTS,
    INTERFACES,
    LEVELS,
    MEASURES,
    PAIR_KEYS,
    PAIRS,
    VM_KEYS,
    VMS,
)


def vms_from_pairs() -> Feed:
    """Each row of a pair stands twice: as sent by one VM, and as received by the other.  Who is no VM is left out."""
    ends = {name: f"if(direction = 'sent', src_{name}, dst_{name}) AS {name}" for name in ("vm", "vm_uuid", "host")}
    sums = ",\n    ".join(add_up(column) for column in MEASURES)
    keys = names(VM_KEYS)
    select = (
        f"SELECT\n    time,\n    {keys},\n    {sums}\nFROM (\n    SELECT\n        *,\n"
        f"        arrayJoin({list(DIRECTION.names)}) AS direction,\n"
        f"        {', '.join(ends.values())}\n    FROM pair_10s${{local}}\n)\n"
        f"WHERE vm != '' OR vm_uuid != toUUID('{UUID(int=0)}')\n"
        f"GROUP BY time, {keys}\nSETTINGS prefer_column_name_to_alias = 1"
    )
    return Feed("vm_10s_from_pair_10s", "pair_10s", "vm_10s", select)


def hosts_from_vms() -> Feed:
    """All VMs of a hypervisor together."""
    sums = ",\n    ".join(add_up(column) for column in MEASURES)
    keys = names(HOST_KEYS)
    select = (
        f"SELECT\n    time,\n    {keys},\n    {sums}\nFROM vm_10s${{local}}\nGROUP BY time, {keys}\n"
        "SETTINGS prefer_column_name_to_alias = 1"
    )
    return Feed("host_10s_from_vm_10s", "vm_10s", "host_10s", select)


def pairs_from_drops() -> Feed:
    """Discarded-packet notices count in the window in which they came."""
    window = f"toDateTime(toStartOfInterval(time_received, toIntervalSecond({LEVELS['10s']})), 'UTC')"
    keys = names(PAIR_KEYS)
    select = (
        f"SELECT {window} AS time, {keys}, count() AS drops\nFROM drops${{local}}\nGROUP BY time, {keys}\n"
    )
    return Feed("pair_10s_from_drops", "drops", "pair_10s", select)


FEEDS = (
    pairs_from_flows(),
    bursts_from_flows(),
    pairs_from_drops(),
    vms_from_pairs(),
    hosts_from_vms(),
    interfaces_from_counters(),
    *(coarser(coarse, fine) for tables in (PAIRS, VMS, HOSTS, INTERFACES) for fine, coarse in pairwise(tables)),
)
