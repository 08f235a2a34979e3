"""Starts the service without what it does not need: libraries that nobody asked for, passes of the collector of cycles
over objects that stay, and memory that is free.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from importlib.abc import MetaPathFinder

YOUNG_OBJECTS = 10_000
"""New objects after which Python looks for cycles.  With its 700, an inventory of 100,000 interfaces takes half as long
again to be taken in as one of 1,000, interface by interface (`bench.growth`)."""

SWITCH_SECONDS = 0.0005
"""How long a thread that computes in Python keeps others waiting for the interpreter.  The event loop gives it away and
asks for it again many times while it reads a batch, at each call that releases it: with Python's 5 ms, `/metrics` of a
thousand exporters on a thread made a timer wait 146 ms."""

LARGE_BYTES = 4 << 20
"""Memory of at least this size goes back to the system when it is freed.  The C library would take the size of what it
saw freed for its limit, up to 32 MiB: columns of a batch then lie between smaller things in heaps that stay, 100 to
300 MiB after a store has failed for 10 s, for nothing (`bench.soak`)."""

_M_MMAP_THRESHOLD = -3
"""malloc.h of glibc."""


def begin() -> None:
    """Call first, before the service's modules are loaded: what they make stays, and has no cycles to be found."""
    gc.set_threshold(YOUNG_OBJECTS)
    keep_threads_out()
    sys.setswitchinterval(SWITCH_SECONDS)
    give_back_memory()
    keep_pandas_out()


def keep_threads_out() -> None:
    """Have numpy's algebra, which nobody here uses, and an allocator of pyarrow's, which is not the one in use, start
    no threads when they are loaded: the service confines itself while it has one thread (`process.confine`)."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"


def give_back_memory() -> None:
    """Give large pieces of memory back to the system once they are free, where the C library can be told so."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


class _NoPandas(MetaPathFinder):
    """Finds no pandas.  `None` in `sys.modules`, Python's own way to say so, is taken for a module by Cython."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Find nothing by this name, and leave the others to those behind."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not looked for yet", name=name)


def keep_pandas_out() -> None:
    """Let pyarrow and clickhouse-connect find no pandas when they look for it, which each does once, with the first
    array that it makes or row that it inserts.

    pandas takes a quarter of a second of a start, and only tells them how to read pandas' own objects.  Whoever imports
    it later gets it, and pyarrow asks again where a caller wants a DataFrame (pandas-shim.pxi of pyarrow).
    clickhouse-connect does not: its `query_df` is not for this process.
    """
    if "pandas" in sys.modules:
        return
    hide = _NoPandas()
    sys.meta_path.insert(0, hide)
    try:
        import pyarrow as pa  # noqa: PLC0415 - not before pandas is hidden
        from clickhouse_connect.driver import options  # noqa: PLC0415

        pa.array([0])
        getattr(options, "pd", None)
    finally:
        sys.meta_path.remove(hide)


def settle() -> None:
    """Call once all is loaded: full passes, which stop all threads, do not look again at what is there by now."""
    gc.freeze()
