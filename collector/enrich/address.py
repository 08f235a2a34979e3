"""Addresses of the places where sources are: an export often comes from the same one."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from collector.enrich.source import Address


def remote_address(remote: str) -> Address | None:
    """Address in `tcp:HOST:PORT` or `ssl:HOST:PORT`, resolved if it is a name; None for unix sockets and loopback."""
    kind, _, rest = remote.partition(":")
    if kind not in ("tcp", "ssl"):
        return None
    host = rest.rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host)
    except ValueError:
        try:
            address = ip_address(socket.getaddrinfo(host, None)[0][4][0])
        except OSError:
            return None
    return None if address.is_loopback else address
