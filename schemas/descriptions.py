"""What each column of the tables and views means, as written in the comments of a store.

A column of a table has its own description.  One of a view has that of `VIEW_COLUMNS`, else that of the column of the
same name in the tables that the views read.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.anomalies import SCORES
from schemas.column import Table
from schemas.end_figures import HOST_KEYS, SUMMED, VM_KEYS, VM_MORE
from schemas.exporters import EXPORTERS
from schemas.gaps import GAPS
from schemas.latency import LATENCY
from schemas.rollups import ROLLUPS

_INTERVAL = {
    "bits_per_second": "bits_per_second",
    "packets_per_second": "packets_per_second",
    "new_connections_per_second": "new_connections_per_second",
    "loss": "loss_ratio",
    "error": "error_ratio",
    "bytes": "bytes_estimated",
    "sent_bits_per_second": "sent_bits_per_second",
    "sent_packets_per_second": "sent_packets_per_second",
    "received_bits_per_second": "received_bits_per_second",
    "received_packets_per_second": "received_packets_per_second",
}
"""Figures that have an interval: the part of the name before `_low` and `_high`, and the figure."""

VIEW_COLUMNS = {
    # Keys and windows.
    "time": "Begin of the window, UTC.",
    "host": "Hypervisor; the sFlow agent address where no name is known.",
    "interface": "Name of the interface, or its ifIndex where no name is known.",
    "if_name": "Name of the interface.",
    "network": "Virtual network.",
    "direction": "`sent` by the VM or hypervisor, or `received`.",
    "exporter": "Address of the exporter; `::` is vmflow itself.",
    "protocol": "Export protocol.",
    "findings": "What the exporter doctor found, joined by commas.",
    "begins": "First poll of counters that is compared.",
    "ends": "Last poll of counters that is compared.",
    # Traffic.
    "packets": "Packets, estimated: counts × sampling rate.",
    "bytes": "Layer 3 bytes, estimated.",
    "bits_per_second": "Layer 3 bits per second, estimated; NULL where no exporter could count them.",
    "packets_per_second": "Packets per second, estimated; NULL where no exporter could count them.",
    "samples": "Sampled packets behind the figures.",
    "sampling_rate": "One in this many packets was sampled; 0: never stated.",
    "counted_at": "Where the volume was seen: `source`, `destination`, or `nowhere`.",
    "sent_packets": "Packets that were seen at the sender only, estimated; of a VM or host: that it sent.",
    "received_packets": "Packets that were seen at the receiver only, estimated; of a VM or host: that it received.",
    "sent_packets_variance": "Variance of `sent_packets` that sampling causes.",
    "received_packets_variance": "Variance of `received_packets` that sampling causes.",
    "version": "When the window was evaluated, in microseconds since 1970: of several, the highest counts.",
    "within_packets": "Packets of which one switch saw both ends, estimated.",
    "elsewhere_packets": "Packets that were seen on the way only; one may be in it several times.",
    "packets_per_record": "Mean packets of a record: 1 where each was reported by itself.",
    "watched_seconds": "How long the exporters at both ends, and vmflow, watched the window.",
    "sent_bytes": "Layer 3 bytes sent, estimated.",
    "received_bytes": "Layer 3 bytes received, estimated.",
    "sent_frame_bytes": "Layer 2 bytes without FCS sent, estimated; 0 where the exporter states none.",
    "received_frame_bytes": "Layer 2 bytes without FCS received, estimated; 0 where the exporter states none.",
    "sent_samples": "Sampled packets behind the figures of what was sent.",
    "received_samples": "Sampled packets behind the figures of what was received.",
    "sent_bits_per_second": "Layer 3 bits per second sent, estimated.",
    "received_bits_per_second": "Layer 3 bits per second received, estimated.",
    "sent_packets_per_second": "Packets per second sent, estimated.",
    "received_packets_per_second": "Packets per second received, estimated.",
    "sent_share": "Part of the octets sent and received that was sent; 1: nothing came back.",
    "restarted": "1 if an exporter that counts it, or vmflow, began again in the window.",
    "peers": "VMs that it sent to; all that is no VM counts as one.",
    "new_peers": "Of `peers`, those that it had not sent to in the 28 days before the window.",
    "peer_entropy": "How evenly what it sent is spread over its peers: 0 all to one, 1 the same to each; NULL: one.",
    "once_in_days": "How rare it is: about once in so many days among 1,000 series.",
    # Loss.
    "loss_ratio": "Of a pair 1 − received / sent; of interfaces discards / (packets + discards). NULL: not known.",
    "loss_delay_allowance": "Part of the interval of loss that allows for changing delays at the ends of the window.",
    "loss_evidence": "What the loss rests on: `exact`, `spread`, `measured`, `insufficient` or `blind`.",
    # Latency.
    "latency_us": "Median latency in microseconds, true within ± `latency_spread_us`; NULL: not measured.",
    "latency_spread_us": "How far off the latency may be, in microseconds.",
    "latency_method": "How the latency is measured: `one_way`, `handshake`, `tcp_info` or `probe`.",
    "latency_trip": "What the latency holds: one way, or a round trip.",
    "latency_missing": "Why there is no latency: `no_ipfix`, `sampled`, `rate_unstated` or `no_new_flow`.",
    "jitter_us": "Mean distance of the readings of latency from their median, in microseconds.",
    # Connections and errors.
    "connections": "Distinct connections, both directions alike; or a state, for uniqCombinedMerge(12).",
    "connections_evidence": "`exact` where nothing was sampled, else `at least`.",
    "new_connections_per_second": "Connections opened by the source, per second; NULL where records show no TCP flags.",
    "failed_connections": "Connections opened that were not accepted, estimated.",
    "resets": "TCP packets with RST, estimated.",
    "error_ratio": "Of a pair failed / opened connections; of interfaces errors / (packets + errors).",
    # Interfaces.
    "in_bytes": "Bytes that the switch received from the interface.",
    "out_bytes": "Bytes that the switch sent to the interface.",
    "in_bits_per_second": "Bits per second that the switch received from the interface, by its counters.",
    "out_bits_per_second": "Bits per second that the switch sent to the interface, by its counters.",
    "in_packets_per_second": "Packets per second that the switch received from the interface, by its counters.",
    "out_packets_per_second": "Packets per second that the switch sent to the interface, by its counters.",
    "in_errors": "Errors in what the switch received from the interface.",
    "out_errors": "Errors in what the switch sent to the interface.",
    "in_discards": "Discards of what the switch received from the interface.",
    "out_discards": "Discards of what the switch sent to the interface.",
    "speed": "Bits per second that the interface can carry; 0: not known.",
    "speed_source": "Who states the speed.",
    "utilisation": "Share of the speed that is used, the busier direction; NULL without a speed.",
    "coverage": "Share of the window that the differences of counters cover.",
    "counters_from": "Which source the counters are of.",
    "busiest_interface": "Interface that the utilisation is of.",
    "counted_in_bytes": "Bytes that switches received from the interfaces, by their counters.",
    "counted_in_packets": "Packets that switches received from the interfaces, by their counters.",
    "counted_out_bytes": "Bytes that switches sent to the interfaces, by their counters.",
    "counted_out_packets": "Packets that switches sent to the interfaces, by their counters.",
    # Exporters.
    "datagrams_per_second": "Datagrams per second received of the exporter.",
    "records_per_second": "Flow records per second decoded.",
    "export_bits_per_second": "Bits per second of payload received of the exporter.",
    "export_loss_ratio": "Share missing by sequence numbers: datagrams of sFlow and NetFlow v9, else records.",
    "sampling_loss_ratio": "Share of samples that is missing by sequence numbers or that the agent lost.",
    # Samples against counters.
    "bytes_counted": "Layer 2 bytes that the counters counted.",
    "bytes_estimated": "Layer 2 bytes that the samples stand for.",
    "verdict": "Of the interface: `consistent`, `too_few`, `too_many` or `insufficient`.",
    "exporter_verdict": "The same of all interfaces of the exporter together.",
    **{f"{begin}_low": f"Lower end of the 95 % interval of `{figure}`." for begin, figure in _INTERVAL.items()},
    **{f"{begin}_high": f"Upper end of the 95 % interval of `{figure}`." for begin, figure in _INTERVAL.items()},
}

_BELOW = (*ROLLUPS, EXPORTERS, LATENCY, GAPS, SCORES)
"""The tables that the views read, in the order in which a description is looked up."""


def of_table(table: Table) -> dict[str, str]:
    """Return column and description, for all columns of a table."""
    return {column.name: _described(column.doc, column.unit) for column in table.columns}


def of_view(columns: Iterable[str]) -> dict[str, str]:
    """Return column and description, for those columns of a view that have one."""
    known = {column.name: _described(column.doc, column.unit) for column in (*VM_MORE, *VM_KEYS, *HOST_KEYS, *SUMMED)}
    for table in reversed(_BELOW):
        known |= of_table(table)
    known |= VIEW_COLUMNS
    return {name: known[name] for name in columns if name in known}


def _described(doc: str, unit: str) -> str:
    return f"{doc} Unit: {unit}." if unit else doc
