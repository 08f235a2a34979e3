"""Names of sFlow drop reasons.

0–15 are the ICMP codes of "destination unreachable"; 256–262 are in the main specification of sFlow 5, 263–303 in that
of drop notices, the later ones in the table that sflowtool and host-sflow share, which states 33 and 36
where 332 and 366 fit the order, so both numbers carry the name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
"""Code -> name.  A code that is not here keeps its number and has no name."""


def name_indices(indices: dict[str, int]) -> NDArray[np.uint32]:
    """[highest code + 2]: index of each code's name in a name table, 0 where there is none (also for the last row)."""
    table = np.zeros(max(DROP_REASONS) + 2, np.uint32)
    for code, name in DROP_REASONS.items():
        table[code] = indices[name]
    return table
