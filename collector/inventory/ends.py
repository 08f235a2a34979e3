"""Both ends of probes, named by their addresses at the time of the window.

A probe shows no MAC address, port or network, only two addresses.  Where an address is a hypervisor's and a VM's, or of
two VMs in networks of their own, it names neither: an unknown end is better than a wrong one.  Once one end is known,
its network distinguishes the candidates for the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from collector.inventory.lookup import find_host, find_ip
from collector.inventory.snapshot import Snapshot, SnapshotTables
from decoders.jit import unchecked_kernel
from schemas.column import Origin
from schemas.probes import PROBES


@unchecked_kernel
def find_ends(time, source, destination, tables, grace, rows, hosts):
    """Fill `rows` [n, 2] with the inventory's row of the VM at each end, `hosts` [n, 2] with the hypervisor; 0: none.

    Addresses are [n, 2] words, times µs.
    """
    for i in range(time.shape[0]):
        for side in range(2):
            if side == 0:
                high, low = source[i, 0], source[i, 1]
            else:
                high, low = destination[i, 0], destination[i, 1]
            hosts[i, side] = find_host(tables, high, low)
            rows[i, side] = find_ip(tables, high, low, time[i], grace, np.uint32(0), 0, 0, 0)
        for side in range(2):
            other = rows[i, 1 - side]
            if rows[i, side] == 0 and other != 0 and hosts[i, 1 - side] == 0:
                if side == 0:
                    high, low = source[i, 0], source[i, 1]
                else:
                    high, low = destination[i, 0], destination[i, 1]
                rows[i, side] = find_ip(tables, high, low, time[i], grace, np.uint32(0), 0, 0, other)
        for side in range(2):
            if hosts[i, side] != 0 and rows[i, side] != 0:
                hosts[i, side] = 0
                rows[i, side] = 0


def name_ends(batch: pa.RecordBatch, snapshot: Snapshot, grace_us: int) -> pa.RecordBatch:
    """Return rows of `probes` with the columns that name their ends."""
    count = batch.num_rows
    found = np.zeros((count, 2), np.int32)
    hosts = np.zeros((count, 2), np.int32)
    times = np.asarray(batch.column("time").cast(pa.int64()))
    source, destination = (_words(batch.column(name)) for name in ("src_ip", "dst_ip"))
    tables: SnapshotTables = snapshot.tables
    find_ends(times, source, destination, tables, grace_us, found, hosts)
    columns: dict[str, pa.Array] = {}
    networks = snapshot.names["network"].take(found)
    hypervisors = {number: name for name, number in snapshot.hosts.items()} if hosts.any() else {}
    for side, end in enumerate(("src", "dst")):
        rows = found[:, side]
        for what in ("vm", "project"):
            columns[f"{end}_{what}"] = _dictionary(snapshot.names[what].take(rows), snapshot.strings)
        of_vm = snapshot.strings.take(pa.array(snapshot.names["host"].take(rows)))
        own = pa.array([hypervisors.get(number, "") for number in hosts[:, side].tolist()], pa.string())
        columns[f"{end}_host"] = pc.if_else(pa.array(rows != 0), of_vm, own).dictionary_encode()
        columns[f"{end}_vm_uuid"] = snapshot.uuids.take(pa.array(rows))
    same = np.where(networks[:, 0] == networks[:, 1], networks[:, 0], 0)
    columns["network"] = _dictionary(same, snapshot.strings)
    schema = PROBES.arrow(Origin.DECODE, Origin.ENRICH)
    present = frozenset(batch.schema.names)
    return pa.RecordBatch.from_arrays(
        [batch.column(name) if name in present else columns[name] for name in schema.names], schema=schema
    )


def _words(addresses: pa.Array) -> NDArray[np.uint64]:
    return np.frombuffer(addresses.buffers()[1], np.uint64, 2 * len(addresses), 16 * addresses.offset).reshape(-1, 2)


def _dictionary(numbers: NDArray[Any], strings: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32), pa.int32()), strings, safe=False)
