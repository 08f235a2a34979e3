"""What decoding must not forget over a restart: templates and sampler rates, in one file."""

from __future__ import annotations

import os
from pathlib import Path

from collector.log import get_log
from decoders.dispatch import Decoder

MAX_STATE_OCTETS = 256 * 2**20
"""A file that is larger was not written by us: 65,536 templates of 1,000 fields take less."""

_log = get_log("pipeline")


def save_state(decoder: Decoder, path: Path) -> None:
    """Write the decoder's state if it changed since it was last written; all of it or nothing (rename).

    A full or read-only disk is logged, not raised: the collector works without the file.
    """
    state = decoder.changed_state()
    if state is None:
        return
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        _log.warning("templates not saved", file=str(path), error=str(error))


def load_state(decoder: Decoder, path: Path) -> None:
    """Read what `save_state` wrote.  No file is no problem; a damaged one is logged and left out."""
    try:
        if path.stat().st_size > MAX_STATE_OCTETS:
            raise ValueError(f"larger than {MAX_STATE_OCTETS} octets")
        decoder.load_state(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        _log.warning("templates not loaded; exporters will announce them again", file=str(path), error=str(error))
