"""What must hold of every input, whatever its octets: used by the fuzzer and by the test over the kept inputs.

An input is a list of datagrams: each has a control octet, two octets of length, and the payload.  Bit 0 of the control
octet repairs version and length in the header, so that mutants are not all refused at the first check; bit 1 chooses
between two senders.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any

import numpy as np

from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.errors import Reason
from decoders.limits import Limits
from decoders.shared import Decoded
from tests.decoders.sflow import support as sflow_messages
from tests.decoders.support import rows

LIMITS = Limits(
    sessions=16, sources=64, templates=64, templates_per_session=32, names=64, rows_per_batch=4_096, held_bytes=65_536
)
KINDS = ("sflow", "legacy", "netflow9", "ipfix", "header")
"""One harness each; `header` is a sampled packet header in an sFlow datagram."""
TIME_US = 1_700_000_000_000_000
REPAIR, SECOND_SENDER = 1, 2
MAX_DATAGRAMS = 8
LEAST_BYTES = {"sflow5": 72, "netflow1": 48, "netflow5": 48, "netflow7": 52, "netflow9": 0.5, "ipfix": 0.5}
"""Octets of input that a flow row takes at least; a NetFlow v9 or IPFIX record of one octet may give a row each way."""
COUNTER_BYTES = 28
"""An interface counter sample takes more: its header alone has 20 octets, its shortest record 8 and a body."""
LEGACY = (1, 5, 7)
FIXED = ("netflow1", "netflow5", "netflow7")
"""Protocols whose records always have addresses, so that 0.0.0.0 is what the exporter said."""

Datagram = tuple[bytes, str, int, int]


def pack(payloads: list[bytes], control: int = REPAIR) -> bytes:
    """An input of these datagrams."""
    return b"".join(struct.pack("!BH", control, len(payload)) + payload for payload in payloads)


def unpack(kind: str, octets: bytes) -> list[Datagram]:
    """The datagrams of an input; what is missing at its end is missing in the last one."""
    found: list[Datagram] = []
    at = 0
    while at + 3 <= len(octets) and len(found) < MAX_DATAGRAMS:
        control, size = struct.unpack_from("!BH", octets, at)
        payload = octets[at + 3 : at + 3 + size]
        at += 3 + size
        if kind == "header":
            payload = _in_sflow(payload, len(found) + 1)
        elif control & REPAIR:
            payload = _repaired(kind, payload)
        sender = "192.0.2.2" if control & SECOND_SENDER else "192.0.2.1"
        found.append((payload, sender, 5_555, TIME_US))
    return found


def _in_sflow(octets: bytes, sequence: int) -> bytes:
    """The first octet is the header protocol, the rest the sampled header."""
    protocol, frame = (octets[0], octets[1:]) if octets else (1, b"")
    sample = sflow_messages.flow_sample(sflow_messages.header(frame, protocol=protocol), sequence=sequence)
    return sflow_messages.datagram(sample, sequence=sequence)


def _repaired(kind: str, payload: bytes) -> bytes:
    if kind == "sflow":
        return b"\0\0\0\5" + payload[4:]
    if kind == "legacy":
        version = payload[1] if payload[1:2] and payload[1] in LEGACY else LEGACY[len(payload) % 3]
        return struct.pack("!H", version) + payload[2:]
    if kind == "netflow9":
        return b"\0\x09" + payload[2:]
    return struct.pack("!HH", 10, max(len(payload), 4)) + payload[4:]


class Run:
    """A new decoder and what it made of datagrams."""

    def __init__(self, *batches: list[Datagram]) -> None:
        self.decoder = Decoder(LIMITS)
        self.decoded: list[Decoded] = []
        with np.errstate(over="ignore"):  # hashes wrap; numpy warns of it where kernels are not compiled
            self.decoded.extend(self.decoder.decode(Datagrams.of(batch)) for batch in batches)

    def table(self, name: str) -> list[dict[str, Any]]:
        return [row for part in self.decoded for row in rows(getattr(part, name))]

    @property
    def problems(self) -> dict[str, int]:
        totals = self.decoder.shared.sessions.problems.sum(axis=0)
        return {reason.name: int(totals[reason]) for reason in Reason if totals[reason]}

    def summary(self) -> dict[str, Any]:
        """All that came out, comparable between runs and between compiled and uncompiled kernels."""
        tables = {name: self.table(name) for name in ("flows", "counters", "drops", "inventory")}
        stats = self.decoder.shared.sessions.stats[: LIMITS.sessions + 1]
        return {**tables, "problems": self.problems, "stats": stats.tolist()}


def examine(kind: str, octets: bytes) -> dict[str, Any]:
    """Decode an input in one batch, again, and one datagram at a time.  Returns the summary of the first.

    Raises AssertionError where something does not hold.
    """
    datagrams = unpack(kind, octets)
    if not datagrams:
        return {}
    run = Run(datagrams)
    summary = run.summary()
    _check_bounds(run, summary, sum(len(payload) for payload, *_ in datagrams))
    assert Run(datagrams).summary() == summary, "the same datagrams gave something else the second time"
    if len(datagrams) > 1:
        single = Run(*([datagram] for datagram in datagrams))
        for name in ("flows", "counters", "drops"):
            assert _multiset(single.table(name)) == _multiset(summary[name]), f"{name}: one by one is not as one batch"
        assert single.problems == summary["problems"], "one by one counts other problems than one batch"
    return summary


def _check_bounds(run: Run, summary: dict[str, Any], octets: int) -> None:
    assert "INTERNAL" not in summary["problems"], "a decoder raised"
    flows = summary["flows"]
    # An unrepaired header may be of any protocol, so each row counts for its own.
    assert sum(LEAST_BYTES[row["protocol"]] for row in flows) <= octets, "more rows than the octets can hold"
    assert len(summary["counters"]) * COUNTER_BYTES <= octets
    for row in flows:
        assert row["sampling_rate"] >= 1
        assert 0 <= row["flow_start"] <= row["flow_end"]
        assert row["src_mac"] or row["dst_mac"] or any(row["src_ip"]) or any(row["dst_ip"]) or row["protocol"] in FIXED
    assert len(run.decoder.sets.templates) <= LIMITS.templates


def _multiset(found: list[dict[str, Any]]) -> Counter[str]:
    return Counter(repr(row) for row in found)
