"""Counters joined with the inventory: whose interface is this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.enrich.kernels import require_rows, require_within, trusting_kernel
from collector.enrich.lookup import BY_INDEX, BY_NAME, find_host, find_port
from collector.enrich.snapshot import Tables


@trusting_kernel
def ports(time, exporter, agent, if_index, if_name, names, tables, grace, known_host, rows):  # type: ignore[no-untyped-def]
    """Row of the inventory for each polled interface, 0 where it is not known; all arrays [n], addresses [n, 2].

    `known_host` is the number of the hypervisor where the poller knows it, else 0: the addresses tell.
    """
    nobody = np.uint64(0)
    for i in range(time.shape[0]):
        host = np.uint32(known_host)
        if host == 0:
            host = find_host(tables, agent[i, 0], agent[i, 1])
        if host == 0:
            host = find_host(tables, exporter[i, 0], exporter[i, 1])
        row = np.uint32(0)
        if names[if_name[i]] > 0:
            row = find_port(tables, host, BY_NAME, names[if_name[i]], time[i], grace, nobody, nobody)
        if row == 0:
            row = find_port(tables, host, BY_INDEX, if_index[i], time[i], grace, nobody, nobody)
        rows[i] = row


def name_ports(
    batch: pa.RecordBatch,
    values: Callable[[pa.Array], NDArray[Any]],
    tables: Tables,
    names: NDArray[np.int32],
    grace_us: int,
    known_host: int,
) -> NDArray[np.int32]:
    """Rows of the inventory's tables for a batch of `interface_counters`."""
    rows = np.zeros(batch.num_rows, np.int32)
    columns = [values(batch.column(n)) for n in ("time_received", "exporter", "agent", "if_index", "if_name")]
    require_rows("counters", batch.num_rows, *columns)
    require_within("interface names", len(names), columns[-1])
    with np.errstate(over="ignore"):
        ports(*columns, names, tables, grace_us, known_host, rows)
    return rows
