"""The meter as machine code and as plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from scapy.all import raw

from decoders.jit import INTERPRETED
from decoders.mirror.meter import count_frames
from decoders.mirror.state import new_meter, sweep
from decoders.packet import HEADER_ETHERNET
from tests.mirror.simulated import Plan, play
from tests.mirror.support import frames_of
from tests.mirror.test_encapsulation import CASES, wrapped


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled with NUMBA_DISABLE_JIT=1")
def test_both_count_the_same() -> None:
    plan = Plan(segments=200, lost_before=0.02, lost_behind=0.02, late=0.02, ack_lost=0.02, copied=0.2)
    timed = [(us, raw(frame)) for wrap, _, _ in CASES for us, frame in wrapped(wrap)]
    frames = frames_of([*play(plan, 3).talk.frames, *timed])
    compiled, plain = new_meter(64, secret=1), new_meter(64, secret=1)
    half = len(frames.ns) // 2
    first = np.arange(len(frames.ns)) < half
    for batch in (frames.those(first), frames.those(~first)):
        count_frames(*batch, HEADER_ETHERNET, compiled)
        sweep(compiled, int(batch.ns.max()))
        with np.errstate(over="ignore"):
            count_frames.py_func(*batch, HEADER_ETHERNET, plain)  # type: ignore[attr-defined] # of a Kernel
            sweep.py_func(plain, int(batch.ns.max()))  # type: ignore[attr-defined]

    for name, one, other in zip(compiled._fields, compiled, plain, strict=True):
        if name != "scratch":
            assert (one == other).all(), name
    assert (compiled.state != 0).any()
