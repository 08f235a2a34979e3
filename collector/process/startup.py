"""Start the service without what it does not need: unused libraries, garbage collection of objects that stay, and
memory that has been freed.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from importlib.abc import MetaPathFinder

YOUNG_OBJECTS = 10_000
"""New objects after which Python looks for cycles.  With its default of 700, reading an inventory of 100,000 interfaces
takes half as long again per interface as one of 1,000 (`bench.growth`)."""

SWITCH_SECONDS = 0.0005
"""How long a thread that computes in Python keeps others waiting for the interpreter.  The event loop releases it and
requests it again many times while it reads a batch: with Python's 5 ms, `/metrics` of a thousand exporters on a thread
made a timer wait 146 ms."""

LARGE_BYTES = 4 << 20
"""Memory of at least this size returns to the system when it is freed.  The C library would raise this limit to the
sizes that it saw freed, up to 32 MiB: columns of a batch are then among smaller objects in heaps that stay, which
wastes 100 to 300 MiB after a store has failed for 10 s (`bench.soak`)."""

_M_MMAP_THRESHOLD = -3
"""malloc.h of glibc."""


def begin() -> None:
    """Make cycle detection rare; call this first, before the service's modules are loaded: their objects stay, without
    cycles."""
    gc.set_threshold(YOUNG_OBJECTS)
    keep_threads_out()
    sys.setswitchinterval(SWITCH_SECONDS)
    give_back_memory()
    keep_pandas_out()


def keep_threads_out() -> None:
    """Keep numpy's linear algebra and an allocator of pyarrow, both unused, from starting threads when they are loaded:
    the service confines itself while it has one thread (`process.confine`)."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"


def give_back_memory() -> None:
    """Give large pieces of memory back to the system once they are free, where the C library has this option."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


class _NoPandas(MetaPathFinder):
    """An import finder that finds no pandas.  Cython takes `None` in `sys.modules`, Python's own way, for a module."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Refuse this name, and leave others to the next finders."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not looked for yet", name=name)


def keep_pandas_out() -> None:
    """Hide pandas from pyarrow and clickhouse-connect, each of which looks for it once, with the first array that it
    makes or row that it inserts.

    pandas takes a quarter of a second at the start, and is only needed for pandas' own objects.  A later import gets
    it, and pyarrow looks again when a caller wants a DataFrame (see its pandas-shim.pxi). clickhouse-connect does not:
    its `query_df` is not for this process.
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
    """Exclude what is loaded by now from full passes, which stop all threads; call this once all is loaded."""
    gc.freeze()
