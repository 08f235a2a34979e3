"""The environment of the process, and how it is hidden: variables hold secrets, and /proc/PID/environ shows them to
anyone who may read files of this process, including the embedded engine.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_hidden: dict[str, str] = {}
"""Variables that `hide` took out: they are needed when settings are reloaded."""

_STAT_ENV_START, _STAT_ENV_END = 50 - 3, 51 - 3
"""Fields of /proc/self/stat (proc(5)) counted after the name of the program."""


def variables() -> Mapping[str, str]:
    """Return all variables with which the process was started, hidden ones too."""
    return {**os.environ, **_hidden}


def hide(names: Iterable[str]) -> bool:
    """Keep these variables private, and show none at all in /proc/PID/environ; return False where this is not possible.

    Processes that are started later do not inherit them, and libraries do not find them.  Call it before there are
    other threads, which might read the variables during the move.
    """
    for name in names:
        if name in os.environ:
            _hidden[name] = os.environ.pop(name)
    # The variables at the start stay where the kernel put them, whatever is changed later: have the C library copy
    # those that stay, then clear that memory.
    for key, value in list(os.environb.items()):
        os.environb[key] = value
    return sys.platform != "linux" or _cleared()


def _cleared() -> bool:
    shown = Path("/proc/self/environ").read_bytes()
    fields = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()
    start, end = int(fields[_STAT_ENV_START]), int(fields[_STAT_ENV_END])
    if end - start != len(shown) or ctypes.string_at(start, len(shown)) != shown:
        return False
    ctypes.memset(start, 0, len(shown))
    return True
