"""What decoding must not forget over a restart: templates and sampler rates of all workers, in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from collector.log import get_log
from collector.pipeline.workers import worker_of
from decoders.dispatch import Decoder

MAX_STATE_OCTETS = 256 * 2**20
"""A file that is larger was not written by us: 65,536 templates of 1,000 fields take less."""

_log = get_log("pipeline")


def save_state(decoders: Sequence[Decoder], path: Path) -> None:
    """Write the decoders' state if it changed since it was last written; all of it or nothing (rename).

    A full or read-only disk is logged, not raised: the collector works without the file.
    """
    changed = [decoder.changed_state() for decoder in decoders]
    if not any(changed):
        return
    state = changed[0] if len(decoders) == 1 else _whole(decoders)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(state or b"")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        _log.sampled("templates not saved", key=str(path), error=str(error))


def load_state(decoders: Sequence[Decoder], path: Path) -> None:
    """Read what `save_state` wrote, for as many decoders as there were.  No file is no problem; a damaged one is logged
    and left out."""
    try:
        if path.stat().st_size > MAX_STATE_OCTETS:
            raise ValueError(f"larger than {MAX_STATE_OCTETS} octets")
        path.chmod(0o600)  # former releases left it to the umask
        state = path.read_bytes()
        shares = [state] if len(decoders) == 1 else _shares(json.loads(state), len(decoders))
        for decoder, share in zip(decoders, shares, strict=True):
            decoder.load_state(share)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        _log.warning("templates not loaded; exporters will announce them again", file=str(path), error=str(error))


def _whole(decoders: Sequence[Decoder]) -> bytes:
    """The state of all decoders as if one had it."""
    states = [decoder.sets.export_state() for decoder in decoders]
    sessions = [session for state in states for session in cast("list[object]", state["sessions"])]
    return json.dumps({**states[0], "sessions": sessions}, separators=(",", ":")).encode()


def _shares(state: object, count: int) -> list[bytes]:
    """The part of each decoder: the streams of the senders that fall to it.  What is not as it should be is for the
    first one, which refuses it."""
    sessions = state.get("sessions") if isinstance(state, dict) else None
    if not isinstance(state, dict) or not isinstance(sessions, list):
        raise ValueError("not saved templates")
    shares: list[list[object]] = [[] for _ in range(count)]
    for session in sessions:
        try:
            number = int(worker_of(np.array([session["key"][:2]], np.uint64), count)[0])
        except (TypeError, KeyError, IndexError, ValueError, OverflowError):
            number = 0
        shares[number].append(session)
    return [json.dumps({**state, "sessions": share}).encode() for share in shares]
