"""Caps on what a sender can make the decoders keep or do, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one decoder.  All are checked before memory is taken."""

    sessions: int = 16_384
    """Exporter streams known at once: (address, port, protocol, domain) or (address, agent, sub-agent).  About 2 KiB
    each, so 32 MiB.  A cloud of 1,000 hypervisors with 4 bridges each has 4,000."""
    sources: int = 131_072
    """sFlow data sources (interfaces and samplers) whose sequence and last counters are kept; about 300 octets each."""
    templates_per_session: int = 1_024
    """Templates of one stream; Open vSwitch announces 89 per bridge, large routers several hundred."""
    templates: int = 524_288
    """Templates of all exporters together: 1,000 hypervisors with 4 bridges each announce 356,000.  Equal ones share
    their plan; about 150 octets each."""
    templates_per_exporter: int = 65_536
    """Templates of all streams of one address."""
    template_seconds: int = 259_200
    """A template neither announced nor used for this long is forgotten (RFC 7011 section 8.4: at least three times its
    refresh interval, which IOS allows to be a day)."""
    rates_per_session: int = 1_024
    """Sampling rates announced by one stream for its samplers, interfaces and templates; a chassis has several hundred
    ports."""
    totals: int = 131_072
    """Flows whose counts are totals, of which the last is kept; 32 octets each."""
    template_fields: int = 1_000
    """Fields of one template; Open vSwitch sends up to 68."""
    plan_fields: int = 1_048_576
    """Fields of all distinct templates; about 200 octets each.  Those of Open vSwitch have 5,000."""
    held_bytes_per_session: int = 16 * 2**20
    """Data waiting for its template, per stream: 600 s of 90 records/s of Open vSwitch, 300 octets each."""
    held_bytes: int = 64 * 2**20
    """Data waiting for templates, all streams together; memory is taken as it fills."""
    held_seconds: int = 660
    """How long data waits: Open vSwitch repeats templates every 600 s by default, with the next record after that."""
    rows_per_batch: int = 262_144
    """Rows allocated at once (about 350 octets each); larger batches are decoded in slices."""
    sflow_records_per_sample: int = 1_000
    """Records of one sFlow sample."""
    names: int = 65_536
    """Distinct interface names at once: the table is emptied when it is nearly full, and names beyond the limit within
    a batch are stored as empty."""
    name_bytes: int = 255
    """Longest name that is kept; interface names are at most 15 characters, port names 255."""
    problems_per_batch: int = 1_024
    """Problems of one batch that are listed with offset; all are counted."""
