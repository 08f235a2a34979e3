"""Capture files as batches of frames for the meter of mirrored packets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from collector.capture.files import CaptureError, CaptureProblems, Skip, WindowSeries, read_frames
from decoders.mirror.meter import Frames

BATCH_FRAMES = 8192
BATCH_BYTES = 4 << 20
LATEST_US = 9_000_000_000_000_000
"""Later times (the year 2255) would not fit a count of nanoseconds."""

_LINKS = {
    0: (4, False),  # BSD loopback
    1: (0, True),
    12: (0, False),  # raw IP
    14: (0, False),
    101: (0, False),
    108: (4, False),
    113: (2, True),  # Linux cooked: its EtherType stands where that of Ethernet does, 2 octets later
    228: (0, False),
    229: (0, False),
    276: (20, False),
}
"""Link type -> (octets before the header, whether that is Ethernet or else IP), as www.tcpdump.org/linktypes says."""


def read_mirrored(path: str | Path, problems: CaptureProblems) -> Iterator[tuple[Frames, bool]]:
    """Yield the frames of a pcap or pcapng file (`-`: standard input; gzip is unpacked) in batches, in their order.

    With each batch comes whether its frames begin with Ethernet; else with IP.  Memory stays flat.  Frames of other
    link types are counted as skipped.  Raises CaptureError as `read_frames` does; what was good before is out by then.
    """
    batch: list[WindowSeries] = []
    octets = 0
    before = 1
    broken: CaptureError | None = None
    try:
        for frame in read_frames(path, problems):
            link = frame[1]
            if link not in _LINKS:
                problems.skipped[Skip.LINK_TYPE] += 1
                continue
            if batch and (len(batch) == BATCH_FRAMES or octets > BATCH_BYTES or link != before):
                yield _frames(batch, *_LINKS[before])
                batch, octets = [], 0
            before = link
            batch.append(frame)
            octets += len(frame[2])
    except CaptureError as error:
        broken = error
    if batch:
        yield _frames(batch, *_LINKS[before])
    if broken is not None:
        raise broken


def _frames(batch: list[WindowSeries], skip: int, ethernet: bool) -> tuple[Frames, bool]:
    times, _, octets, _ = zip(*batch, strict=True)
    length = np.fromiter(map(len, octets), np.int64, len(batch))
    before = np.minimum(length, skip)
    unstated = np.zeros(len(batch), np.int64)
    return Frames(
        octets=np.frombuffer(bytearray(b"".join(octets) or b"\0"), np.uint8),
        start=np.cumsum(length) - length + before,
        length=length - before,
        original=unstated,
        ns=np.minimum(np.fromiter(times, np.int64, len(batch)), LATEST_US) * 1000,
        vlan=unstated,
        segment=unstated,
    ), ethernet
