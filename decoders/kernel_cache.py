"""Where machine code of kernels is kept: a file for each kernel and signature, valid for one state of the source.

numba's own cache notices a change of a kernel's own file, but not of a helper in another file, nor of a constant that
it compiled in; it holds the path of the source, so that a copy compiles again; and it trusts what it reads.  Here the
directory's name is a digest of all the source that a kernel is made of, of the versions of Python, numba and LLVM, and
of the processor that the code is for.  A file begins with a digest of its name and contents.

Machine code is taken only from directories of this user or of root that nobody else may write to.
"""

from __future__ import annotations

import hashlib
import os
import pickle  # nosec B403
import platform
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from llvmlite import binding
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult

_ROOT = Path(__file__).resolve().parent.parent
_OWN = tuple(_ROOT.joinpath(folder) for folder in ("decoders", "schemas"))

INSTALLED = _ROOT / "decoders" / "kernels"
"""What `vmflow warmup --to` writes here comes with the installation, and is only read."""

V3 = (
    "avx", "avx2", "bmi", "bmi2", "cx16", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse3", "sse4.1", "sse4.2",
    "ssse3", "xsave",
)  # fmt: skip
"""What x86-64-v3 adds to the first 64-bit processors, as LLVM names it (psABI, section 3.1.1)."""

_DIGEST_BYTES = hashlib.sha256().digest_size

_problems: dict[str, bool] = {}
"""Why kernels are compiled although they may be in the cache, or will be again: a line each; whether it was taken."""


def choose_processor() -> None:
    """Compile for x86-64-v3 where the machine is one: code for exactly this processor is no faster, and its cache is
    of no use on another one.  `NUMBA_CPU_NAME` chooses otherwise."""
    if numba.config.CPU_NAME is None and platform.machine() == "x86_64":  # type: ignore[attr-defined]
        features = binding.get_host_cpu_features()
        if all(features.get(name) for name in V3):
            setattr(numba.config, "CPU_NAME", "x86-64-v3")  # noqa: B010 - its stubs do not know it
            setattr(numba.config, "CPU_FEATURES", "")  # noqa: B010


def processor() -> tuple[str, str]:
    """Return the name and the features of the processor that is compiled for."""
    config: Any = numba.config
    name = config.CPU_NAME or binding.get_host_cpu_name()
    return name, binding.get_host_cpu_features().flatten() if config.CPU_FEATURES is None else config.CPU_FEATURES


@cache
def source_digest(*sources: Path) -> str:
    """Return a digest of what compiles, for what, and of the source in `decoders`, `schemas`, these folders and
    below."""
    config: Any = numba.config
    compiler = (platform.python_version(), numba.__version__, llvmlite.__version__, config.OPT, config.BOUNDSCHECK)
    digest = hashlib.sha256(repr((*compiler, platform.machine(), *processor())).encode())
    for source in dict.fromkeys((*_OWN, *sources)):
        for path in sorted(source.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"\0{path.relative_to(source)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def base_directory() -> Path:
    """Return where kernels are cached: `VMFLOW_CACHE_DIR`, else in the user's cache directory."""
    if base := os.environ.get("VMFLOW_CACHE_DIR"):
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vmflow"


def writable() -> bool:
    """Return whether machine code can be written to the cache."""
    base = base_directory()
    return usable(base) and os.access(base, os.W_OK | os.X_OK)


def take_problems() -> list[str]:
    """Return the problems since the last call, each once."""
    taken = [problem for problem, known in _problems.items() if not known]
    _problems.update(dict.fromkeys(taken, True))
    return taken


def _note(problem: str) -> None:
    _problems.setdefault(problem, False)


@cache
def usable(directory: Path) -> bool:
    """Return whether the files of a directory may be run: it is this user's or root's, who alone may write to it.

    A missing directory is made.  What is wrong is noted for `take_problems`.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = directory.stat()
    except OSError as error:
        _note(f"no cache of kernels in {directory}: {error.strerror}")
        return False
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _note(f"cache of kernels in {directory} not used: others may write to it")
        return False
    return True


class KernelCache(_Cache):
    """The files of one kernel, for numba.  A closure has none: what it holds is not in its name."""

    def __init__(self, function: Any) -> None:
        source = Path(function.__code__.co_filename).resolve().parent
        own = any(source.is_relative_to(folder) for folder in _OWN)
        self._folder = f"kernels-{source_digest(*(() if own else (source,)))}"
        self._seen: set[str] = set()
        self._closure = function.__closure__ is not None
        self._name = f"{function.__module__}.{function.__qualname__}".replace("<locals>.", "")

    @property
    def cache_path(self) -> str:
        """The directory for reading and writing."""
        return str(base_directory() / self._folder)

    def _directories(self) -> Iterator[Path]:
        for base in (base_directory(), INSTALLED):
            directory = base / self._folder
            if (base is not INSTALLED or directory.is_dir()) and usable(base) and usable(directory):
                yield directory

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the machine code for a signature; None if it is not there."""
        target_context.refresh()
        for directory in () if self._closure else self._directories():
            if (payload := self._read(directory / self._file(sig))) is not None:
                parts = _unpickled(payload)[1:]
                return CompileResult._rebuild(target_context, *parts)  # type: ignore[no-untyped-call] # as numba's cache
        return None

    def signatures(self) -> list[Any]:
        """Return the signatures that there is machine code for, each once."""
        found = []
        for file in self._files():
            if file.name not in self._seen and (payload := self._read(file)) is not None:
                self._seen.add(file.name)
                found.append(_unpickled(payload)[0])
        return found

    def whole(self) -> bool:
        """Return whether there is machine code for a signature, and all that there is is undamaged."""
        files = list(self._files())
        return bool(files) and all(self._read(file) is not None for file in files)

    def _files(self) -> Iterator[Path]:
        for directory in self._directories():
            yield from directory.glob(f"{self._name}-*.kernel")

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the machine code for a signature, all of it or nothing."""
        directory = base_directory() / self._folder
        if (
            self._closure
            or data.library.has_dynamic_globals
            or data.lifted
            or not (usable(directory.parent) and usable(directory))
        ):
            return
        file = directory / self._file(sig)
        payload = pickle.dumps((sig, *data._reduce()), protocol=pickle.HIGHEST_PROTOCOL)
        try:
            handle, part = tempfile.mkstemp(dir=directory, prefix=".", suffix=".part")
            try:
                with open(handle, "wb") as stream:
                    stream.write(self._digest(file, payload) + payload)
                os.replace(part, file)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part)
                raise
        except OSError as error:
            _note(f"kernels not cached in {directory}: {error.strerror}")

    def enable(self) -> None:
        """Do nothing: it is always on."""

    def disable(self) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing: another state of the source has another directory."""

    def _file(self, sig: Any) -> str:
        return f"{self._name}-{hashlib.sha256(repr(sig).encode()).hexdigest()[:16]}.kernel"

    def _digest(self, file: Path, payload: bytes) -> bytes:
        return hashlib.sha256(b"\0".join((self._folder.encode(), file.name.encode(), payload))).digest()

    def _read(self, file: Path) -> bytes | None:
        """Return what a file holds; None if there is none, or if it is not whole."""
        try:
            with open(file, "rb") as stream:
                if os.fstat(stream.fileno()).st_uid not in (os.geteuid(), 0):
                    raise ValueError
                content = stream.read()
            payload = content[_DIGEST_BYTES:]
            if content[:_DIGEST_BYTES] != self._digest(file, payload):
                raise ValueError
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            _note(f"kernel in {file} is damaged or not ours: it is compiled again")
            return None
        return payload


def _unpickled(payload: bytes) -> Any:
    # The files are of this user or root, and as they were written.
    return pickle.loads(payload)  # noqa: S301  # nosec B301
