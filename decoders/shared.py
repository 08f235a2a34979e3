"""What the decoders share: state, memory for rows, results; and the choice of the decoder for each datagram."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from decoders.datagrams import Datagrams
from decoders.errors import Reason
from decoders.interface_names import NameList, Names, new_names
from decoders.jit import kernel
from decoders.limits import Limits
from decoders.sessions import (
    S_BYTES,
    S_DATAGRAMS,
    S_DENIED,
    S_LAST_SEEN_US,
    Sessions,
    find_session,
    new_sessions,
    pack_stream,
)
from decoders.wire import u16, u32, u64

K_NONE, K_SFLOW, K_LEGACY, K_SETS = range(4)
"""Which decoder takes a datagram: none, sFlow 5, NetFlow 1/5/7, NetFlow 9 and IPFIX."""

PROBLEM_FIELDS = 4
"""Columns of a problem log: datagram, offset in it, reason, detail (format, set or template id)."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The result of one batch of datagrams.  Batches follow the schemas; a table without rows has an empty list."""

    flows: list[pa.RecordBatch] = field(default_factory=list)
    counters: list[pa.RecordBatch] = field(default_factory=list)
    drops: list[pa.RecordBatch] = field(default_factory=list)
    inventory: list[pa.RecordBatch] = field(default_factory=list)
    problems: list[NDArray[np.int64]] = field(default_factory=list)
    """Arrays [n, PROBLEM_FIELDS]; bounded by `Limits.problems_per_batch`, while `Sessions.problems` counts all."""


@dataclass(slots=True)
class Shared:
    """The state that all decoders use."""

    limits: Limits
    sessions: Sessions
    names: Names
    name_list: NameList
    port_in_key: bool = True
    """NetFlow and IPFIX streams are distinguished by their UDP source port (RFC 7011 section 8)."""
    domain_in_key: bool = True
    """False: templates are shared between all domains of one exporter (Open vSwitch before 3.2)."""


def new_shared(limits: Limits) -> Shared:
    """Return empty state."""
    names = new_names(limits)
    return Shared(limits, new_sessions(limits), names, NameList(names))


@kernel
def assign(
    octets,
    start,
    length,
    address,
    port,
    received,
    connection,
    s,
    port_in_key,
    domain_in_key,
    kind,
    session,
):
    """Find version and session of each datagram, count it, and fill `kind` and `session` (both [n]).

    The end of a connection is no datagram: it has session 0 and is not counted.
    """
    for i in range(start.shape[0]):
        at = start[i]
        size = length[i]
        kind[i] = K_NONE
        session[i] = 0
        if size == 0 and connection[i] != 0:
            continue
        reason = -1
        version = np.int64(0)
        domain = np.int64(0)
        agent_high = np.uint64(0)
        agent_low = np.uint64(0)
        stream_port = np.int64(0)
        if size < 4:
            reason = Reason.EMPTY.value
        else:
            version = u16(octets, at)
            if version == 0 and u16(octets, at + 2) == 5:
                version = np.int64(0x85)
                family = u32(octets, at + 4) if size >= 8 else -1
                body = 4 if family == 1 else (16 if family == 2 else 0)
                if size < 24 + body:
                    reason = Reason.SHORT_HEADER.value
                elif family < 0 or family > 2:
                    reason = Reason.AGENT_ADDRESS.value
                else:
                    if family == 1:
                        agent_low = np.uint64(0xFFFF00000000) | np.uint64(u32(octets, at + 8))
                    elif family == 2:
                        agent_high = u64(octets, at + 8)
                        agent_low = u64(octets, at + 16)
                    domain = u32(octets, at + 8 + body)
                    kind[i] = K_SFLOW
            elif version in (1, 5, 7):
                header = 16 if version == 1 else 24
                stream_port = port[i]
                if size < header:
                    reason = Reason.SHORT_HEADER.value
                else:
                    if version == 5:
                        domain = u16(octets, at + 20)
                    kind[i] = K_LEGACY
            elif version in (9, 10):
                stream_port = port[i]
                need = 20 if version == 9 else 16
                if size < need:
                    reason = Reason.SHORT_HEADER.value
                else:
                    domain = u32(octets, at + need - 4)
                    kind[i] = K_SETS
                agent_high = np.uint64(connection[i])
            else:
                reason = Reason.VERSION.value
                version = np.int64(0)
        if not port_in_key and connection[i] == 0:
            stream_port = np.int64(0)
        if not domain_in_key and version in (9, 10):
            domain = np.int64(0)
        number = find_session(
            s, address[i, 0], address[i, 1], pack_stream(version, stream_port, domain), agent_high, agent_low
        )
        session[i] = number
        s.stats[number, S_DATAGRAMS] += np.uint64(1)
        s.stats[number, S_BYTES] += np.uint64(size)
        s.stats[number, S_LAST_SEEN_US] = np.uint64(received[i])
        if reason >= 0:
            s.problems[number, reason] += np.uint64(1)
        elif number == 0:
            s.problems[0, Reason.SESSION_LIMIT.value] += np.uint64(1)
            kind[i] = K_NONE


@kernel
def refuse_denied(s, kind, session):
    """Remove datagrams of senders that are not allowed from the batch, and count them."""
    for i in range(kind.shape[0]):
        if kind[i] != K_NONE and s.stats[session[i], S_DENIED] != 0:
            s.problems[session[i], Reason.DENIED.value] += np.uint64(1)
            kind[i] = K_NONE


def assign_batch(shared: Shared, batch: Datagrams) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return kind and session number of each datagram, [n] each."""
    kind = np.zeros(len(batch), np.uint8)
    session = np.zeros(len(batch), np.int64)
    assign(
        batch.octets,
        batch.start,
        batch.length,
        batch.address,
        batch.port,
        batch.time_received_us,
        batch.connection,
        shared.sessions,
        shared.port_in_key,
        shared.domain_in_key,
        kind,
        session,
    )
    return kind, session
