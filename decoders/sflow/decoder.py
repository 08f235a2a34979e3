"""sFlow version 5: datagrams in, rows of `flows`, `interface_counters`, `drops` and `inventory` out.

Strategy: datagrams are taken in slices whose rows stay within the limits.  One kernel follows the sequence numbers and
lists the samples of a slice (`index`); one kernel for each kind of sample then fills as many rows as there are
(`samples`, `counters`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from decoders import rows as columns
from decoders.datagrams import Datagrams
from decoders.interface_names import intern
from decoders.rows import Rows, layout, new_rows, unclear_rows
from decoders.sflow.counters import HOST_WORDS, HostReader, decode_counters
from decoders.sflow.index import (
    COUNTER_RECORDS,
    DROP_FORMATS,
    FLOW_FORMATS,
    FORMAT_COUNTERS,
    FORMAT_COUNTERS_EXPANDED,
    FORMAT_DROP,
    FORMAT_FLOW,
    FORMAT_FLOW_EXPANDED,
    LEAST_SAMPLE,
    LOG_COUNT,
    M_FORMAT,
    RECORDS,
    SAMPLE_WORDS,
    forget_sources,
    index_samples,
    new_sources,
)
from decoders.sflow.samples import EXTRAS, X_CLASS, X_FUNCTION, X_INDEX, X_LINUX, X_SUPPRESSED, X_TRAP, decode_packets
from decoders.shared import PROBLEM_FIELDS, Decoded, Shared
from schemas.column import Origin
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.flows import FLOWS

_ICMP = """
net_unreachable host_unreachable protocol_unreachable port_unreachable fragmentation_needed source_route_failed
dst_net_unknown dst_host_unknown src_host_isolated dst_net_prohibited dst_host_prohibited dst_net_tos_unreachable
dst_host_tos_unreachable communication_prohibited host_precedence_violation precedence_cutoff
"""

_FROM_256 = """
unknown ttl acl no_buffer_space red traffic_shaping pkt_too_big src_mac_is_multicast vlan_tag_mismatch
ingress_vlan_filter ingress_spanning_tree_filter port_list_is_empty port_loopback_filter blackhole_route non_ip
uc_dip_over_mc_dmac dip_is_loopback_address sip_is_mc sip_is_loopback_address ip_header_corrupted
ipv4_sip_is_limited_bc ipv6_mc_dip_reserved_scope ipv6_mc_dip_interface_local_scope unresolved_neigh
mc_reverse_path_forwarding non_routable_packet decap_error overlay_smac_is_mc unknown_l2 unknown_l3
unknown_l3_exception unknown_buffer unknown_tunnel unknown_l4 sip_is_unspecified mlag_port_isolation
blackhole_arp_neigh src_mac_is_dmac dmac_is_reserved sip_is_class_e mc_dmac_mismatch sip_is_dip dip_is_local_network
dip_is_link_local overlay_smac_is_dmac egress_vlan_filter uc_reverse_path_forwarding split_horizon locked_port
dmac_filter blackhole_nexthop vxlan_parsing llc_snap_parsing vlan_parsing pppoe_ppp_parsing mpls_parsing arp_parsing
ip_1_parsing ip_n_parsing gre_parsing udp_parsing tcp_parsing ipsec_parsing sctp_parsing dccp_parsing gtp_parsing
esp_parsing unknown_parsing pkt_too_small unhandled_proto ipv6disabled invalid_proto ip_noproto skb_csum
skb_ucopy_fault dev_ready dev_hdr dup_frag skb_gso_seg reverse_path_forwarding icmp_parsing tcp_md5notfound
tcp_md5unexpected tcp_md5failure tcp_flags zerowindow old_data overwindow ofomerge paws invalid_sequence reset
invalid_syn close fastopen old_ack too_old_ack ack_unsent_data ofo_queue_prune ofo_drop tcp_minttl ipv6_bad_exthdr
ipv6_ndisc_358 ipv6_ndisc_359 ipv6_ndisc_360 ipv6_ndisc_361 ipv6_ndisc_362 tap_filter tap_txfilter tc_ingress
tc_egress xdp cpu_backlog bpf_cgroup_egress xfrm_policy socket_filter bgp_flowspec
"""

DROP_REASONS: dict[int, str] = {
    **dict(enumerate(_ICMP.split())),
    **dict(enumerate(_FROM_256.split(), start=256)),
    33: "dev_hdr",
    36: "tc_egress",
}
"""Drop reason: code -> name.  A code that is not here keeps its number and has no name.

0–15 are the ICMP codes of "destination unreachable"; 256–262 are in the main specification of sFlow 5, 263–303 in that
of drop notices, the later ones in the table that sflowtool and host-sflow share.  That table states 33 and 36 where 332
and 366 fit the order, so both numbers have the name."""


def name_indices(indices: dict[str, int]) -> NDArray[np.uint32]:
    """Return [highest code + 2]: index of each code's name in a name table, 0 if there is none (also the last row)."""
    table = np.zeros(max(DROP_REASONS) + 2, np.uint32)
    for code, name in DROP_REASONS.items():
        table[code] = indices[name]
    return table


ROW_BYTES = 72
"""Least octets of payload for one row: a sample's fixed fields and one record with addresses or counters."""
HOSTS_PER_SLICE = 4_096
"""Counter samples with host structures read in one slice."""


class SflowDecoder:
    """Decodes sFlow datagrams; keeps the last numbers of each data source."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._sources = new_sources(shared.limits)
        self._hosts = HostReader(shared.limits.sessions, shared.sessions)
        self._found = np.zeros((max(RECORDS, COUNTER_RECORDS), 2), np.int64)
        self._text = np.zeros(2 * shared.limits.name_bytes + 1, np.uint8)
        self._reasons = name_indices({name: self._intern(name) for name in sorted(set(DROP_REASONS.values()))})

    @property
    def forgotten_sources(self) -> int:
        """Data sources whose state was dropped for others: above 0, `Limits.sources` is too small."""
        return int(self._sources.clock[1])

    def decode(self, batch: Datagrams, picked: NDArray[np.int64], session: NDArray[np.int64]) -> Decoded:
        """Decode the datagrams `picked` of `batch` in this order; `session` [len(batch)] numbers their streams.

        The datagrams are at least as long as their headers (checked by `decoders.shared.assign`).
        """
        decoded = Decoded()
        room = self._shared.limits.problems_per_batch
        for part in self._slices(batch.length[picked] // ROW_BYTES):
            room -= self._decode(batch, picked[part], session, decoded, room)
        return decoded

    def begin_anew(self, numbers: NDArray[np.int64]) -> None:
        """Do nothing: the order of sFlow datagrams is kept in the sessions themselves."""

    def forget(self, numbers: NDArray[np.int64]) -> None:
        """Drop the state of these sessions: their numbers will be used for others."""
        forget_sources(self._sources, numbers)

    def _slices(self, bounds: NDArray[np.int64]) -> Iterator[slice]:
        """Yield runs of datagrams whose rows, at most `bounds` each, stay within the limit; each of at least one."""
        ends = np.cumsum(bounds)
        first = 0
        before = 0
        while first < len(ends):
            limit = before + self._shared.limits.rows_per_batch
            last = max(int(np.searchsorted(ends, limit, side="right")), first + 1)
            yield slice(first, last)
            before = int(ends[last - 1])
            first = last

    def _decode(
        self, batch: Datagrams, picked: NDArray[np.int64], session: NDArray[np.int64], decoded: Decoded, room: int
    ) -> int:
        """Decode one slice into `decoded`; `room`: problems that may be listed.  Returns how many were."""
        sessions = self._shared.sessions
        log = np.zeros((1 + max(room, 0), PROBLEM_FIELDS), np.int64)
        # Not cleared: it is twice as large as the payloads, and real samples fill only a tenth of it.
        samples = np.empty((int((batch.length[picked] // LEAST_SAMPLE).sum()), SAMPLE_WORDS), np.int64)
        payloads = (batch.octets, batch.start, batch.length, batch.time_received_us)
        count = index_samples(*payloads, picked, session, sessions, log, samples)
        samples = samples[:count]
        formats = np.bincount(samples[:, M_FORMAT], minlength=FORMAT_DROP + 1)
        origin = (batch.octets, batch.start, batch.address, batch.time_received_us, session, samples)
        limit = self._shared.limits.sflow_records_per_sample
        state = (sessions.stats, sessions.problems, log, self._found, self._sources)
        texts = (self._shared.names, self._text)
        flows = int(formats[FORMAT_FLOW] + formats[FORMAT_FLOW_EXPANDED])
        if flows:
            rows = unclear_rows(FLOWS, flows)
            extra = np.zeros((EXTRAS, 1), np.int64)
            if filled := int(decode_packets(*origin, False, FLOW_FORMATS, limit, rows, extra, *state, *texts)):
                decoded.flows.append(columns.batch(FLOWS, rows, filled, self._shared.name_list.array()))
        counters = int(formats[FORMAT_COUNTERS] + formats[FORMAT_COUNTERS_EXPANDED])
        if counters:
            rows = new_rows(COUNTERS, counters)
            hosts = np.zeros((min(counters, HOSTS_PER_SLICE), HOST_WORDS), np.int64)
            filled, listed = decode_counters(*origin, limit, rows, *state, self._shared.names, hosts)
            if filled:
                decoded.counters.append(columns.batch(COUNTERS, rows, int(filled), self._shared.name_list.array()))
            inventory = self._hosts.read(batch, session, hosts[:listed])
            if inventory is not None:
                decoded.inventory.append(inventory)
        if drops := int(formats[FORMAT_DROP]):
            rows = new_rows(FLOWS, drops)
            extra = np.zeros((EXTRAS, drops), np.int64)
            decode_packets(*origin, True, DROP_FORMATS, limit, rows, extra, *state, *texts)
            decoded.drops.append(self._drops(rows, extra))
        listed = int(log[0, LOG_COUNT])
        if listed:
            decoded.problems.append(log[1 : 1 + listed].copy())
        return listed

    def _drops(self, packets: Rows, extra: NDArray[np.int64]) -> pa.RecordBatch:
        """Return the rows of notices: packet columns from rows laid out as `flows`, the others from `extra`."""
        count = extra.shape[1]
        rows = new_rows(DROPS, count)
        flow_places = layout(FLOWS)
        group, index = flow_places["drop_reason"]
        codes = np.minimum(packets[group][index], len(self._reasons) - 1)
        others = {
            "reason_name": self._reasons[codes],
            "source_class": extra[X_CLASS],
            "source_index": extra[X_INDEX],
            "suppressed": extra[X_SUPPRESSED],
            "function": extra[X_FUNCTION],
            "trap": extra[X_TRAP],
            "linux_reason": extra[X_LINUX],
        }
        for column in DROPS.stored:
            if column.origin is not Origin.DECODE:
                continue
            group, index = layout(DROPS)[column.name]
            if column.name in others:
                rows[group][index] = others[column.name]
            else:
                from_group, from_index = flow_places[column.name]
                rows[group][index] = packets[from_group][from_index]
        return columns.batch(DROPS, rows, count, self._shared.name_list.array())

    def _intern(self, name: str) -> int:
        octets = np.frombuffer(bytearray(name.encode()), np.uint8)
        with np.errstate(over="ignore"):
            return int(intern(self._shared.names, octets, 0, len(octets)))
