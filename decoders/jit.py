"""How kernels are compiled: one decorator, and one cache directory per state of the source.

numba notices a change of a kernel's own file, but not of a kernel it calls in another file, nor of a constant that it
compiled in.  So the cache directory's name holds a digest of all the source that kernels are made of.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

Compiled = Callable[..., Any]
"""A kernel.  Its argument types are checked by numba, which refuses what it cannot compile."""

_ROOT = Path(__file__).resolve().parent.parent
_OWN = tuple(_ROOT.joinpath(folder) for folder in ("decoders", "schemas"))


def source_digest(*sources: Path) -> str:
    """Return a digest of numba's version and of the source in `decoders`, `schemas` and these folders and below."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in (*_OWN, *sources):
        for path in sorted(source.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_directory(*sources: Path) -> Path:
    """Return where kernels of these sources are cached: in `VMFLOW_CACHE_DIR`, else in the user's cache directory."""
    base = os.environ.get("VMFLOW_CACHE_DIR")
    if base:
        return Path(base) / f"kernels-{source_digest(*sources)}"
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "vmflow" / f"kernels-{source_digest(*sources)}"


if "NUMBA_CACHE_DIR" not in os.environ:
    setattr(numba.config, "CACHE_DIR", str(cache_directory()))  # noqa: B010 - its stubs do not know it


_KERNELS: list[Compiled] = []


def _njit(boundscheck: bool = True, **options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Compile with what all kernels have in common, and `options`, some of which numba's stubs lack."""
    compiler: Any = numba.njit
    decorator: Callable[[Callable[..., Any]], Compiled] = compiler(
        nogil=True, boundscheck=boundscheck, error_model="numpy", **options
    )
    return decorator


def kernel(function: Callable[..., Any]) -> Compiled:
    """Compile `function`: releases the GIL, keeps array bounds checks, is cached on disk.

    With `NUMBA_DISABLE_JIT=1` the function runs as plain Python, for fuzzing and debugging.
    """
    return _kernel(function, boundscheck=True)


def _kernel(function: Callable[..., Any], *, boundscheck: bool) -> Compiled:
    compiled = _njit(boundscheck, cache=True)(function)
    _KERNELS.append(compiled)
    return compiled


def progress() -> tuple[int, int]:
    """Return how many kernels are compiled or loaded so far, and how many the imported modules have."""
    return sum(bool(getattr(one, "overloads", True)) for one in _KERNELS), len(_KERNELS)


def kernel_of(*sources: Path, boundscheck: bool = True) -> Callable[[Callable[..., Any]], Compiled]:
    """Return `kernel` for code outside `decoders`: cached under the digest of the folders that it is made of.

    Without `boundscheck` it is for parts that are `inline_unchecked`.
    """
    directory = str(cache_directory(*sources))

    def decorate(function: Callable[..., Any]) -> Compiled:
        # numba reads the directory once, when caching of the function is enabled.
        before = numba.config.CACHE_DIR  # type: ignore[attr-defined] # its stubs do not know it
        if "NUMBA_CACHE_DIR" not in os.environ:
            setattr(numba.config, "CACHE_DIR", directory)  # noqa: B010
        try:
            return _kernel(function, boundscheck=boundscheck)
        finally:
            setattr(numba.config, "CACHE_DIR", before)  # noqa: B010

    return decorate


def inline(function: Callable[..., Any]) -> Compiled:
    """Compile a helper that kernels call; it needs no cache entry.

    It is compiled without reference counts, whose updates would cost more than most helpers do: it may use arrays that
    it gets, but not create one.  The kernel that calls it keeps references to them all.
    """
    return _njit(_nrt=False)(function)


def inline_always(function: Callable[..., Any]) -> Compiled:
    """Compile as `inline` does, but always as part of the caller.

    For the parts of a large kernel: a call would copy every array of every argument, some hundred words.
    """
    return _njit(_nrt=False, forceinline=True)(function)


def inline_unchecked(function: Callable[..., Any]) -> Compiled:
    """Compile as `inline_always` does, without array bounds checks: for look-ups in arrays that vmflow made.

    The caller of the kernel must have checked that all indices in them lie within the arrays that they index.
    """
    return _njit(boundscheck=False, _nrt=False, forceinline=True)(function)
