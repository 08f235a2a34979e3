"""The secret in the hashes of connections: the same over restarts, so that a connection is the same one after them."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from collector.log import get_log

OCTETS = 16

_log = get_log("rollup")


def connection_key(file: Path) -> int:
    """The number in `file`, 32 hexadecimal digits; made if there is no such file.

    Where it cannot be read or made, the number is of this run only and the log says so: connections of the window in
    which the service was started anew then count twice.
    """
    try:
        if not file.exists():
            _make(file)
        return _read(file)
    except (OSError, ValueError) as error:
        _log.warning("no lasting key for connections: set rollup.key_file", file=str(file), error=str(error))
        return secrets.randbits(8 * OCTETS)


def _make(file: Path) -> None:
    """Under another name first: a kill in between must not leave half a key.  Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(4)}.tmp")
    temporary.touch(0o600)
    try:
        temporary.write_text(secrets.token_hex(OCTETS) + "\n", encoding="ascii")
        with contextlib.suppress(FileExistsError):  # another service was quicker: its key counts
            os.link(temporary, file)
    finally:
        temporary.unlink()


def _read(file: Path) -> int:
    """Raises ValueError if the file does not hold a key, OSError."""
    text = file.read_text(encoding="ascii").strip()
    if len(text) != 2 * OCTETS:
        raise ValueError(f"expected {2 * OCTETS} hexadecimal digits")
    return int(text, 16)
