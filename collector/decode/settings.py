"""Settings of decoding."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

MOST_WORKERS = 16

MAPPED = IPv6Network("::ffff:0:0/96")

Network = IPv4Network | IPv6Network
Protocol = Literal["sflow5", "netflow1", "netflow5", "netflow7", "netflow9", "ipfix"]


class ExporterSettings(BaseModel, frozen=True, extra="forbid"):
    """What is known of the exporters in one network; the first entry that matches an exporter counts."""

    network: Network
    """Sender addresses, such as `192.0.2.11` or `192.0.2.0/24`."""
    protocol: Protocol | None = None
    """Only what these exporters send by this protocol: one host may send sFlow with one rate and IPFIX with another."""
    sampling_rate: Annotated[int, Field(ge=0, le=0xFFFF_FFFF)] = 0
    """One in this many packets is sampled, whatever the exporter states; 0 = as it states.  Open vSwitch's IPFIX counts
    arrive scaled, so only 1 is right of it, where `sampling=1`: it states no rate, and exact figures need one."""
    one_port: bool = False
    """These exporters send data, templates and options from different UDP ports (NAT, some line cards): what comes from
    one port holds for the others of the same address."""


class DecodeSettings(BaseModel, frozen=True, extra="forbid"):
    """How datagrams become rows."""

    inbox_bytes: Annotated[int, Field(ge=1 << 20)] = 64 * 2**20
    """Datagrams waiting to be decoded, at most: half a second of 1 Gbit/s.  What comes when it is full is dropped and
    counted (`vmflow_inbox_dropped_datagrams_total`)."""
    batch_bytes: Annotated[int, Field(ge=1 << 16)] = 16 * 2**20
    """Datagrams decoded at once, at most, by each worker; a quarter of the inbox at most.  With half of it, which is
    what a block of received payloads holds, Python's share per batch is a few percent."""
    decode_workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] = 0
    """Threads that decode and name; all datagrams of a sender go to the same one.  0 = one for every four cores:
    inserts and sums need the others.  Each has tables of its own, with the limits of one."""
    gather_milliseconds: Annotated[float, Field(ge=0, le=1_000)] = 100.0
    """While less than half of `batch_bytes` waits, wait this long for more: a batch has a fixed cost of about a
    millisecond, and the store gathers for a second anyway.  0 switches it off."""
    allow: tuple[Network, ...] = ()
    """Networks that may export; empty = every sender that reaches the port."""
    exporters: tuple[ExporterSettings, ...] = ()
    """What is known of single exporters."""
    share_templates_between_ports: bool = False
    """True if all exporters send templates and data from different UDP ports; `one_port` of an exporter is safer."""
    share_templates_between_domains: bool = False
    """True for Open vSwitch before 3.2 with flow-based IPFIX: it sends templates in one domain only."""
    report_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Interval of the rows in table `exporters`."""
    template_lifetime_seconds: Annotated[int, Field(ge=60)] = 259_200
    """A template that was neither announced nor used for this long is dropped (RFC 7011 section 8.4: at least three
    times its refresh interval; routers allow that to be a day)."""
    template_file: Path | None = None
    """Where templates are kept over a restart; default: `templates.json` in the data directory of the store."""
    template_save_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How often templates are saved if they changed."""
    exporter_labels: Annotated[int, Field(ge=1)] = 1_000
    """Exporters with a metric label of their own; the others share `other`."""


def mapped(network: Network) -> IPv6Network:
    """The network as IPv6, IPv4 in its mapped form."""
    if isinstance(network, IPv6Network):
        return network
    return IPv6Network((int(MAPPED.network_address) | int(network.network_address), 96 + network.prefixlen))
