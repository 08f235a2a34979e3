"""What rules can watch: per scope the view, what names a series in it, and its measures with unit and interval.

The views are SQL text (`schemas.views.all`), so their columns are listed here once more; a test holds this list against
the views of a real store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from collector.interfaces import Scope
from schemas.views.common import MOST_PER_RECORD, suffix


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of a view."""

    unit: str
    low: str = ""
    """SQL of the lower end of the 95 % interval; empty where the view has none."""
    high: str = ""
    samples: str = ""
    """SQL of what the value rests on."""
    evidence: str = ""
    """Column that puts the evidence into a word."""
    centre: str = ""
    """SQL of the value without being cut off where it makes no sense, for sums over windows."""
    allowance: str = ""
    """SQL of the part of high − value that allows for what does not happen again and again: delays that change."""
    point: str = ""
    """SQL of whether the value is exact and each packet stands in the window in which its exporter saw it."""
    own: bool = False
    """Known to the service itself, in no view: what the store says of the time without it comes too late."""
    survival: bool = False
    """The interval is symmetric in ln(1 − value): that of a share that is lost."""


@dataclass(frozen=True, slots=True)
class ScopeView:
    """Where the series of a scope come from."""

    view: str
    keys: tuple[str, ...]
    """SQL of what makes a series: columns of its view."""
    labels: Mapping[str, str]
    """Name of a label → SQL of its text."""
    where: str
    """Rows that are series of this scope."""
    present: str
    """Rows that count as a sign of life, for `absent`."""
    vms: tuple[str, ...]
    """Labels that a filter's `vm` patterns are held against; any of them may match."""
    hosts: tuple[str, ...]
    uuids: tuple[str, ...]
    """Columns with UUIDs of VMs, for a filter's `project` patterns."""
    naming: tuple[str, ...]
    """Labels that find a series again: not those that change while it lives."""
    measures: Mapping[str, Measure]
    counts: str = ""
    """Rows from which `absent` learns a series; empty: from any sign of life."""
    changes: tuple[str, ...] = ()
    """Columns that say of known changes: `restarted`, `sampling_rate`."""
    rhythm: bool = False
    """Whether `absent` learns how often each series gives a sign of life, and which replaces which."""

    def name(self, level: str) -> str:
        """The view for windows of this level."""
        return f"{self.view}{suffix(level)}"


def _bounded(column: str, unit: str, samples: str) -> dict[str, Measure]:
    return {column: Measure(unit, low=f"{column}_low", high=f"{column}_high", samples=samples)}


def _plain(unit: str, *columns: str) -> dict[str, Measure]:
    return {column: Measure(unit) for column in columns}


_PAIR = {
    "loss_ratio": Measure(
        "ratio",
        "loss_low",
        "loss_high",
        "samples",
        "loss_evidence",
        centre="1 - received_packets / sent_packets",
        allowance="loss_delay_allowance",
        point=f"loss_evidence = 'exact' AND packets_per_record <= {MOST_PER_RECORD}",
        survival=True,
    ),
    "error_ratio": Measure("ratio", "error_low", "error_high", "samples"),
    "latency_us": Measure("µs", "latency_us - latency_spread_us", "latency_us + latency_spread_us"),
    **_bounded("bits_per_second", "bit/s", "samples"),
    **_bounded("packets_per_second", "packets/s", "samples"),
    **_bounded("new_connections_per_second", "connections/s", "samples"),
    "connections": Measure("connections", samples="samples", evidence="connections_evidence"),
    **_plain("µs", "jitter_us"),
    **_plain("connections", "failed_connections"),
    **_plain("packets", "resets", "drops", "drop_hint_packets", "packets", "elsewhere_packets"),
    **_plain("bytes", "bytes"),
}

_ENDS = {
    **_bounded("sent_bits_per_second", "bit/s", "sent_samples"),
    **_bounded("received_bits_per_second", "bit/s", "received_samples"),
    **_bounded("sent_packets_per_second", "packets/s", "sent_samples"),
    **_bounded("received_packets_per_second", "packets/s", "received_samples"),
    "connections": Measure("connections", evidence="connections_evidence"),
    **_plain("ratio", "utilisation", "loss_ratio", "error_ratio", "sent_share"),
    **_plain("connections/s", "new_connections_per_second"),
    **_plain("packets", "drops", "sent_packets", "received_packets"),
    **_plain("bytes", "sent_bytes", "received_bytes"),
}

_CHANGES = ("restarted", "sampling_rate")

_PEERS = {
    **_plain("peers", "peers", "new_peers"),
    **_plain("ratio", "peer_entropy"),
}

_INTERFACE = {
    **_plain("ratio", "utilisation", "loss_ratio", "error_ratio", "coverage"),
    **_plain("bit/s", "in_bits_per_second", "out_bits_per_second"),
    **_plain("packets/s", "in_packets_per_second", "out_packets_per_second"),
    **_plain("packets", "in_discards", "out_discards", "in_errors", "out_errors"),
}

_EXPORTER = {
    **_plain("ratio", "export_loss_ratio", "sampling_loss_ratio"),
    **_plain("datagrams/s", "datagrams_per_second"),
    **_plain("records/s", "records_per_second"),
    **_plain("bit/s", "export_bits_per_second"),
    **_plain("packets", "datapath_lost"),
    **_plain("problems", "problems"),
    **_plain("datagrams", "kernel_drops", "queue_drops", "duplicates", "reordered", "datagrams"),
    **_plain("restarts", "restarts"),
    **_plain("µs", "clock_skew_us"),
    **_plain("bytes", "held_bytes"),
}


_OWN = {
    "store_away_seconds": Measure("s", own=True),
    "spool_ratio": Measure("ratio", own=True),
}


def _address(column: str) -> str:
    return f"replaceOne(toString({column}), '::ffff:', '')"


def _vm(end: str) -> str:
    """The identity of a VM: its UUID, which a new name leaves as it is; the name where no source knows one."""
    return f"if({end}_uuid = toUUID('{UUID(int=0)}'), toString({end}), toString({end}_uuid))"


def _same(*columns: str) -> dict[str, str]:
    return {column: f"toString({column})" for column in columns}


SCOPES: Mapping[Scope, ScopeView] = {
    "pair": ScopeView(
        "pair_metrics",
        (_vm("src_vm"), _vm("dst_vm"), "network"),
        _same("src_vm", "dst_vm", "src_host", "dst_host", "network"),
        where="src_vm != '' AND dst_vm != ''",
        present="counted_at != 'nowhere'",
        vms=("src_vm", "dst_vm"),
        hosts=("src_host", "dst_host"),
        uuids=("src_vm_uuid", "dst_vm_uuid"),
        naming=("src_vm", "dst_vm", "network"),
        measures=_PAIR,
        changes=_CHANGES,
    ),
    "vm": ScopeView(
        "vm_metrics",
        (_vm("vm"),),
        _same("vm", "host"),
        where="vm != ''",
        present="sent_packets + received_packets > 0",
        vms=("vm",),
        hosts=("host",),
        uuids=("vm_uuid",),
        naming=("vm",),
        measures=_ENDS,
        changes=_CHANGES,
    ),
    "host": ScopeView(
        "host_metrics",
        ("host",),
        _same("host"),
        where="host != ''",
        present="sent_packets + received_packets > 0",
        vms=(),
        hosts=("host",),
        uuids=(),
        naming=("host",),
        measures=_ENDS,
        changes=_CHANGES,
    ),
    "interface": ScopeView(
        "interface_metrics",
        ("host", "interface"),
        _same("host", "interface", "vm", "network"),
        where="1",
        present="1",
        vms=("vm",),
        hosts=("host",),
        uuids=("vm_uuid",),
        naming=("host", "interface"),
        measures=_INTERFACE,
    ),
    "exporter": ScopeView(
        "exporter_metrics",
        ("exporter", "agent", "domain", "protocol"),
        {
            "exporter": _address("exporter"),
            "agent": _address("agent"),
            "domain": "toString(domain)",
            "protocol": "toString(protocol)",
        },
        where="exporter != '::'",
        present="datagrams > 0",
        vms=(),
        hosts=(),
        uuids=(),
        naming=("exporter", "agent", "domain", "protocol"),
        measures=_EXPORTER,
        # Open vSwitch sends statistics of its IPFIX in domain 0, every 600 s: that domain exports nothing.
        counts="records + counter_records > 0",
        rhythm=True,
    ),
    "service": ScopeView(
        "exporter_metrics",
        ("exporter",),
        {},
        where="exporter = '::'",
        present="1",
        vms=(),
        hosts=(),
        uuids=(),
        naming=(),
        measures={**_EXPORTER, **_OWN},
    ),
}

MORE_VIEWS: Mapping[Scope, ScopeView] = {
    "vm": replace(SCOPES["vm"], view="vm_peers", present="sent_bytes > 0", measures=_PEERS)
}
"""Views that have more measures of a scope."""


def view_of(scope: Scope, measure: str) -> ScopeView:
    """Return the view that has a measure of a scope; of an unknown one, that of the scope."""
    more = MORE_VIEWS.get(scope)
    return more if more is not None and measure in more.measures else SCOPES[scope]


def measures_of(scope: Scope) -> Mapping[str, Measure]:
    """Return all measures of a scope."""
    more = MORE_VIEWS.get(scope)
    return {**SCOPES[scope].measures, **(more.measures if more is not None else {})}
