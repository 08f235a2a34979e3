"""Confine this process for good (Linux: Landlock): from then on, no code in it, including the embedded engine, can
read, write or run a file, open a TCP port or signal a process except those named before.

Landlock is a list of what is allowed.  A path allows all below it.  The kernel remembers the file that a path meant at
the time: a file that later replaces it under the same name is another file and not allowed; in an allowed directory,
files may come and go.  https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

LEAST_ABI = 2
"""Version 1 (Linux 5.13 to 5.18) forbids moving files between directories, which the embedded engine does."""
KNOWN_ABI = 7

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls: the same numbers on x86-64, aarch64 and all newer architectures."""
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

READ = _READ_FILE | _READ_DIR
EXECUTE = READ | _EXECUTE
WRITE = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER | _TRUNCATE
"""No sockets, pipes and devices."""
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that a single file can have."""

_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPES = 1 << 0 | 1 << 1
"""Abstract Unix sockets and signals."""

_FILES_OF_ABI = {2: 1 << 14, 3: 1 << 15, 4: 1 << 15, 5: 1 << 16}
"""Rights to files in each version, as the bit after the last; later versions have those of 5."""
_NET_ABI, _SCOPE_ABI = 4, 6

_PROC = Path("/proc")
_kept: list[int] = []
"""Descriptors of files below /proc: without one, the kernel drops such a file, and makes another one at the next
access."""


class ConfineError(Exception):
    """The process cannot be confined; the message says why."""


class ConfineSettings(BaseModel, frozen=True, extra="forbid"):
    """How the service confines itself: it reaches the files and TCP ports that its settings name, and no others."""

    mode: Literal["auto", "require", "off"] = "auto"
    """`auto`: confined where the system supports it (Linux 5.19 or newer), reported in the log and by /health where
    not. `require`: without it, the service does not start."""
    read: tuple[Path, ...] = Field(default=(), max_length=64)
    """More files and directories that may be read, such as a key that ~/.ssh/config names for qemu+ssh."""
    connect: tuple[int, ...] = Field(default=(), max_length=64)
    """More TCP ports to which the service may connect, such as that of a jump host."""


@dataclass(frozen=True)
class Reach:
    """What the process may still do.  Paths that do not exist are left out."""

    read: frozenset[Path]
    """Files; directories with all below them."""
    write: frozenset[Path]
    """Directories in which files are made, changed and removed; files that are changed."""
    temporary: Path
    """A directory for temporary files, which is itself removed at the end."""
    execute: frozenset[Path]
    """Directories of programs that may be run."""
    bind: frozenset[int]
    """TCP ports; 0: whatever port the system gives."""
    connect: frozenset[int] | None
    """TCP ports to connect to; None: all."""


@dataclass(frozen=True)
class Confinement:
    """What was confined."""

    abi: int
    """Version of Landlock in force; 0: the process is not confined."""
    summary: str
    """The same in words: what is confined, or why nothing is."""
    files: frozenset[Path] = frozenset()
    """Files that may be read one by one, not with their directory."""

    def replaced(self) -> list[str]:
        """Return files that have replaced allowed ones: only a new process can read them."""
        return sorted(str(path) for path in self.files if _refused(path))


UNCONFINED = Confinement(0, "off")


def landlock_abi() -> int:
    """Return the version of Landlock that the kernel offers; 0 for none."""
    if sys.platform != "linux":
        return 0
    try:
        return _syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def confine(reach: Reach) -> Confinement:
    """Confine this thread and all threads and processes that it starts.  Cannot be undone.  Raises ConfineError, with
    nothing changed.

    Call it before there are other threads: those that began before stay as they are.
    """
    offered = landlock_abi()
    if offered < LEAST_ABI:
        raise ConfineError(
            f"Landlock of version {LEAST_ABI} or newer is needed, the system offers {offered or 'none'}: "
            "Linux 5.19 or newer, and no filter of system calls that forbids it"
        )
    abi = min(offered, KNOWN_ABI)
    files = _FILES_OF_ABI[min(abi, max(_FILES_OF_ABI))] - 1
    net = 0
    if abi >= _NET_ABI:
        net = _BIND_TCP | (_CONNECT_TCP if reach.connect is not None else 0)
    scopes = _SCOPES if abi >= _SCOPE_ABI else 0
    try:
        ruleset = _syscall(_CREATE_RULESET, struct.pack("=QQQ", files, net, scopes), 24, 0)
        try:
            write, remove = reach.write | {reach.temporary}, {reach.temporary.parent}
            rules = ((READ, reach.read), (EXECUTE, reach.execute), (WRITE, write), (_REMOVE_DIR, remove))
            for rights, paths in rules:
                for path in paths:
                    _allow_path(ruleset, path, rights & files)
            if net:
                for port in reach.bind:
                    _allow_port(ruleset, port, _BIND_TCP)
                for port in reach.connect or ():
                    _allow_port(ruleset, port, _CONNECT_TCP)
            _no_new_privileges()
            _syscall(_RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        raise ConfineError(f"Landlock {abi}: {error.strerror}") from error
    kinds = ["files"]
    if net:
        kinds.append("TCP ports" if reach.connect is not None else "own TCP ports")
    if scopes:
        kinds.append("signals")
    single = frozenset(path for path in reach.read if path.is_file() and _PROC not in path.parents)
    return Confinement(abi, f"Landlock {abi}: {', '.join(kinds)}", single)


def other_threads() -> list[str]:
    """Return the names of the other threads of this process."""
    own = os.getpid()
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            if task.name != str(own):
                names.append((task / "comm").read_text().strip())
    return names


def _allow_path(ruleset: int, path: Path, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _OF_FILES
        _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, handle), 0)
    except OSError as error:
        if error.errno != errno.EBADFD:  # a pipe or socket, which needs no rule
            raise
    finally:
        if _PROC in path.parents:
            _kept.append(handle)
        else:
            os.close(handle)


def _allow_port(ruleset: int, port: int, right: int) -> None:
    _syscall(_ADD_RULE, ruleset, _NET_PORT, struct.pack("=QQ", right, port), 0)


def _no_new_privileges() -> None:
    """Programs that change the user gain nothing any more: the kernel requires this before it confines."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    """Raises OSError."""
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _refused(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.EACCES
    return False
