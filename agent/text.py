"""How people write the other end, and keys."""

from __future__ import annotations

import re
from pathlib import Path

from agent import stamp

KEY_OCTETS = range(16, 65)
_TARGET = re.compile(r"(?:\[(?P<v6>[^]]+)\]|(?P<name>[^:]*))(?::(?P<port>\d{1,5}))?")


def target(text: str) -> tuple[str, int]:
    """Return host and port of `host`, `host:port`, `[::1]:port` or `::1`.  Raises ValueError."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, stamp.PORT
    found = _TARGET.fullmatch(text)
    host = found and (found["v6"] or found["name"])
    if found is None or not host or int(found["port"] or 0) > 65_535:
        raise ValueError(f"{text!r} is not HOST or HOST:PORT; IPv6 as [::1]:{stamp.PORT}")
    return host, stamp.PORT if found["port"] is None else int(found["port"])


def read_key(file: Path) -> bytes:
    """Return the key in a file.  Raises ValueError, which says nothing of what is in it; OSError."""
    with file.open("rb") as opened:
        text = opened.read(1024).strip()
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) not in KEY_OCTETS:
        raise ValueError(f"{file}: a key is one line of 32 to 128 hexadecimal digits")
    return key
