"""Captures of exports (pcap, pcapng) as UDP datagrams: one by one, or as batches for the decoders.

`files` reads the records of a file; `frames` takes one frame apart and joins what IP has split.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from collector.capture.files import CaptureError, CaptureProblems, Skip, read_frames
from collector.capture.frames import Fragments, Packet, Piece, ip_of, udp_of
from decoders.datagrams import Datagrams, address_halves

__all__ = ["CaptureError", "CaptureProblems", "CapturedDatagram", "Skip", "batch_of", "read_batches", "read_capture"]

BATCH_DATAGRAMS = 4096
SHORT = frozenset((Skip.IP_HEADER, Skip.UDP_LENGTH))
"""Reasons that a snap length brings about, too."""


class CapturedDatagram(NamedTuple):
    """A UDP datagram as it stands in a capture."""

    time_us: int
    """Time of capture, microseconds since 1970 UTC; of a fragmented one, when it was whole."""
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes


def read_capture(path: str | Path, problems: CaptureProblems | None = None) -> Iterator[CapturedDatagram]:
    """Yield the UDP datagrams of the pcap or pcapng file at `path` (`-`: standard input; gzip is unpacked), in order.

    Memory stays flat, whatever the file's size.  What gives no datagram is counted into `problems` by reason.
    Raises CaptureError if the file cannot be opened, is no capture or is damaged; by then, what was good before is out.
    """
    problems = CaptureProblems() if problems is None else problems
    fragments = Fragments(problems)
    try:
        for time_us, link, frame, frame_cut in read_frames(path, problems):
            found: Packet | Piece | Skip | None = ip_of(link, frame)
            if isinstance(found, Piece):
                found = fragments.add(found, time_us)
            if isinstance(found, Packet):
                datagram = udp_of(found)
                if not isinstance(datagram, Skip):
                    problems.datagrams += 1
                    source, source_port, destination, destination_port, payload = datagram
                    yield CapturedDatagram(
                        time_us, _text(source), source_port, _text(destination), destination_port, payload
                    )
                    continue
                found = datagram
            if found is not None:
                problems.skipped[Skip.CUT if frame_cut and found in SHORT else found] += 1
    finally:
        fragments.close()


def read_batches(
    path: str | Path, problems: CaptureProblems | None = None, datagrams: int = BATCH_DATAGRAMS
) -> Iterator[Datagrams]:
    """Yield the datagrams of a capture as batches for the decoders, at most `datagrams` in each; see `read_capture`.

    The sender is the original source; the time received is the time of capture.
    """
    source = read_capture(path, problems)
    while rows := list(islice(source, datagrams)):
        yield batch_of(rows)


def batch_of(rows: list[CapturedDatagram]) -> Datagrams:
    """Columns of captured datagrams, in their order."""
    times, sources, ports, _, _, payloads = zip(*rows, strict=True) if rows else ((),) * 6
    length = np.fromiter(map(len, payloads), np.int64, len(rows))
    return Datagrams(
        octets=np.frombuffer(bytearray(b"".join(payloads)), dtype=np.uint8),
        start=np.cumsum(length) - length,
        length=length,
        address=np.fromiter(chain.from_iterable(map(_halves, sources)), np.uint64, 2 * len(rows)).reshape(-1, 2),
        port=np.fromiter(ports, np.int64, len(rows)),
        time_received_us=np.fromiter(times, np.int64, len(rows)),
        connection=np.zeros(len(rows), np.int64),
    )


@lru_cache(maxsize=65_536)
def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


_halves = lru_cache(maxsize=65_536)(address_halves)
