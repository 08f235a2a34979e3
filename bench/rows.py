"""Made-up flow rows that compress and sort like real ones: many addresses and ports, few exporters and names."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from schemas.column import Column, Table
from schemas.flows import FLOWS

VMS = 2000
EXPORTERS = 40


def _addresses(rng: np.random.Generator, rows: int, count: int, net: int) -> pa.Array:
    pool = np.zeros((count, 16), np.uint8)
    pool[:, 10:12] = 255
    pool[:, 12] = 10
    pool[:, 13] = net
    pool[:, 14:] = np.arange(count, dtype=">u2").view(np.uint8).reshape(-1, 2)
    return pa.Array.from_buffers(
        pa.binary(16), rows, [None, pa.py_buffer(pool[rng.integers(0, count, rows)].tobytes())]
    )


def _names(rng: np.random.Generator, rows: int, stem: str, count: int) -> pa.Array:
    keys = ["", *(f"{stem}-{number:04d}" for number in range(count))]
    indices = rng.integers(0, len(keys), rows).astype(np.int32)
    return pa.DictionaryArray.from_arrays(indices, pa.array(keys))


def _missing(column: Column, rows: int) -> pa.Array:
    kind = column.arrow
    if pa.types.is_dictionary(kind):
        indices = pa.array(np.zeros(rows, np.dtype(kind.index_type.to_pandas_dtype())))
        if column.names:
            return pa.DictionaryArray.from_arrays(indices, pa.array(column.names))
        none = "" if pa.types.is_string(kind.value_type) else bytes(kind.value_type.byte_width)
        return pa.DictionaryArray.from_arrays(indices, pa.array([none], kind.value_type))
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(bytes(kind.byte_width * rows))])
    return pa.array(np.zeros(rows, np.int64)).cast(kind)


def batch(table: Table, rows: int, **columns: pa.Array) -> pa.RecordBatch:
    """`rows` rows of `table`: the given columns, all others missing."""
    return pa.RecordBatch.from_arrays(
        [columns.get(column.name, _missing(column, rows)) for column in table.stored], schema=table.arrow()
    )


def flows(rows: int, start_us: int, span_us: int = 200_000, seed: int = 1, datagram: int = 30) -> pa.RecordBatch:
    """`rows` IPFIX-like flow rows received within `span_us`; `datagram` rows share a time and an exporter."""
    rng = np.random.default_rng(seed)
    datagrams = -(-rows // datagram)
    received = np.repeat(start_us + np.sort(rng.integers(0, span_us, datagrams)), datagram)[:rows]
    exporters = np.zeros((EXPORTERS, 16), np.uint8)
    exporters[:, 10:12] = 255
    exporters[:, 12:] = (192, 0, 2, 0)
    exporters[:, 15] = np.arange(EXPORTERS)
    exporter = exporters[np.repeat(rng.integers(0, EXPORTERS, datagrams), datagram)[:rows]]
    duration = rng.integers(0, 60_000_000, rows)
    end = received - rng.integers(0, 2_000_000, rows)
    packets = rng.geometric(0.05, rows).astype(np.uint64)
    octets = packets * rng.integers(40, 1500, rows).astype(np.uint64)
    time = pa.timestamp("us", tz="UTC")
    protocol = FLOWS["protocol"]
    uuids = rng.integers(0, 2**63, (VMS, 2), dtype=np.uint64)

    def uuid() -> pa.Array:
        keys = pa.Array.from_buffers(pa.binary(16), VMS, [None, pa.py_buffer(uuids.tobytes())])
        return pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, VMS, rows).astype(np.int32)), keys)

    def mac() -> pa.Array:
        return pa.array((0x525400000000 + rng.integers(0, VMS, rows)).astype(np.uint64))

    def port(share: float) -> pa.Array:
        known = rng.choice(np.array([53, 80, 443, 5432, 3306, 6379, 22], np.uint16), rows)
        return pa.array(np.where(rng.random(rows) < share, known, rng.integers(1024, 65535, rows)).astype(np.uint16))

    return batch(
        FLOWS,
        rows,
        time_received=pa.array(received, pa.int64()).cast(time),
        exporter=pa.Array.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(exporter.tobytes())]),
        domain=pa.array(exporter[:, 15].astype(np.uint32)),
        protocol=pa.DictionaryArray.from_arrays(
            np.full(rows, protocol.code("ipfix"), np.int8), pa.array(protocol.names)
        ),
        flow_start=pa.array(end - duration, pa.int64()).cast(time),
        flow_end=pa.array(end, pa.int64()).cast(time),
        packets=pa.array(packets),
        bytes=pa.array(octets),
        frame_bytes=pa.array(octets + packets * np.uint64(14)),
        sampling_rate=pa.array(np.ones(rows, np.uint32)),
        samples=pa.array(np.ones(rows, np.uint32)),
        src_mac=mac(),
        dst_mac=mac(),
        ether_type=pa.array(np.full(rows, 0x0800, np.uint16)),
        vlan=pa.array(rng.integers(100, 140, rows).astype(np.uint16)),
        src_ip=_addresses(rng, rows, 20_000, 1),
        dst_ip=_addresses(rng, rows, 20_000, 2),
        ip_protocol=pa.array(rng.choice(np.array([6, 6, 6, 17, 1], np.uint8), rows)),
        src_port=port(0.2),
        dst_port=port(0.8),
        tcp_flags=pa.array(rng.choice(np.array([0x1B, 0x02, 0x12, 0x18], np.uint16), rows)),
        tos=pa.array(rng.choice(np.array([0, 0, 0, 0xB8], np.uint8), rows)),
        ttl=pa.array(rng.choice(np.array([64, 63, 128], np.uint8), rows)),
        in_if=pa.array(rng.integers(1, 200, rows).astype(np.uint32)),
        out_if=pa.array(rng.integers(1, 200, rows).astype(np.uint32)),
        src_vm=_names(rng, rows, "vm", VMS),
        dst_vm=_names(rng, rows, "vm", VMS),
        src_project=_names(rng, rows, "project", 50),
        dst_project=_names(rng, rows, "project", 50),
        src_host=_names(rng, rows, "host", 60),
        dst_host=_names(rng, rows, "host", 60),
        network=_names(rng, rows, "net", 40),
        src_vm_uuid=uuid(),
        dst_vm_uuid=uuid(),
    )
