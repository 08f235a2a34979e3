"""Settings of the listener, and the error that names the one that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, Field, field_validator, model_validator

DEFAULT_PORTS = (6343, 2055, 4739)
"""sFlow (IANA "sflow"), NetFlow (custom), IPFIX (IANA "ipfix").  Each accepts every protocol."""


class ListenError(Exception):
    """A socket cannot be opened with these settings.

    `key` is the setting, `value` what it holds, `advice` what was expected or what to do.
    """

    def __init__(self, key: str, value: str, problem: str, advice: str) -> None:
        super().__init__(f"{key}: {problem}; {advice}")
        self.key = key
        self.value = value
        self.problem = problem
        self.advice = advice


class Endpoint(NamedTuple):
    """Where to listen: an IP address or a name, and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StreamEndpoint(NamedTuple):
    """Where to accept connections: `tcp` or `tls`, an IP address or a name, and a TCP port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{Endpoint(self.host, self.port)}"


class ListenSettings(BaseModel, frozen=True, extra="forbid"):
    """Where and how the service receives datagrams."""

    # Loopback only: a collector that is open to the network is the operator's decision (`0.0.0.0:6343`, `[::]:6343`).
    addresses: tuple[str, ...] = Field(
        default=tuple(f"{host}:{port}" for port in DEFAULT_PORTS for host in ("127.0.0.1", "[::1]")),
        min_length=1,
        max_length=64,  # each costs descriptors, buffers and label values; no one listens on more by hand
    )

    # 0.27 s of 1 Gbit/s, which covers the longest pauses of the process; the kernel allocates it only when needed.
    # The system may grant less (net.core.rmem_max): the granted size is a metric.
    receive_buffer_bytes: int = Field(default=32 * 2**20, ge=4096, le=2**30)

    # One suffices until a sender fills it: then datagrams of others are lost, too.
    sockets: int = Field(default=1, ge=1, le=64)
    """Sockets for each UDP address.  The kernel (Linux) gives each sender, by its address and port, one of them: its
    datagrams stay in order, and a sender that fills a receive buffer harms only those that share its socket.  Each
    socket has a receive buffer of its own."""

    # Under load, a socket is not read for this long after it was emptied, so that batches grow: fewer wake-ups, less
    # work per datagram for every later stage.  The first datagram after silence is never delayed.  Shortened
    # automatically if the receive buffer would fill.  0 switches it off.
    gather_milliseconds: float = Field(default=10.0, ge=0, le=100)

    # Off by default, since two services started by mistake would not notice each other, and each would see half of the
    # traffic.
    share_ports: bool = False
    """Share each port with other processes of the same user: each gets a part of the exporters.  Such a service also
    joins one that has several `sockets`."""

    streams: tuple[str, ...] = Field(default=(), max_length=16)
    """IPFIX over TCP or TLS (RFC 7011 section 10.4), such as `tcp://0.0.0.0:4739` and `tls://0.0.0.0:4740`."""
    stream_connections: int = Field(default=256, ge=1, le=10_000)
    """Connections at a time.  Each holds up to 0.4 MB if the service is slower than its exporters."""
    stream_connections_per_source: int = Field(default=8, ge=1, le=10_000)
    """Connections at a time from one address (IPv6: from one /64): exporters open one, or one for each of their
    processes."""
    stream_idle_seconds: float = Field(default=1800, gt=0)
    """A connection without data for this long is closed; exporters send templates or data more often."""
    stream_message_seconds: float = Field(default=30, gt=0)
    """How long one message may take from its first octet to its last, and how long the first one may be awaited."""
    certificate_file: Path | None = None
    """PEM file with the certificate of the `tls://` addresses, and those that signed it."""
    key_file: Path | None = None
    """PEM file with the certificate's private key, without a passphrase."""
    client_ca_file: Path | None = None
    """PEM file of the authorities that sign exporters' certificates: with it, exporters need one."""

    @model_validator(mode="after")
    def _have_certificates(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together: set both or none")
        if self.certificate_file is None and any(address.startswith("tls:") for address in self.streams):
            raise ValueError("tls:// addresses need certificate_file and key_file")
        return self

    @field_validator("streams")
    @classmethod
    def _are_streams(cls, streams: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(streams)) < len(streams):
            raise ValueError("an address is listed more than once")
        for address in streams:
            parse_stream(address)
        return streams

    @field_validator("addresses")
    @classmethod
    def _are_endpoints(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := {address for address in addresses if addresses.count(address) > 1}:
            raise ValueError(f"listed more than once: {', '.join(sorted(repeated))}")
        for address in addresses:
            parse_endpoint(address)
        return addresses

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return `addresses`, parsed."""
        return tuple(parse_endpoint(address) for address in self.addresses)

    def stream_endpoints(self) -> tuple[StreamEndpoint, ...]:
        """Return `streams`, parsed."""
        return tuple(parse_stream(address) for address in self.streams)


def parse_stream(text: str) -> StreamEndpoint:
    """Read `tcp://host:port` or `tls://host:port`.  Raises ValueError saying what is expected."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("tcp", "tls"):
        raise ValueError(f"{text!r}: tcp://host:port or tls://host:port is expected")
    return StreamEndpoint(scheme, *parse_endpoint(rest))


def parse_endpoint(text: str) -> Endpoint:
    """Read `host:port` or `[IPv6]:port`.  Raises ValueError saying what is expected."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:6343")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise ValueError(f"{text!r}: host:port is expected, as in 127.0.0.1:6343 or [::1]:6343")
    return Endpoint(host, int(port))
