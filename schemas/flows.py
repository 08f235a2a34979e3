"""Table `flows`: one decoded flow record or packet sample, named."""

from __future__ import annotations

from schemas.column import (
    ADDRESS,
    ENUM,
    NAME,
    NAMED_UUID,
    TIME_US,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    Column,
    Origin,
    Table,
)

IPV6 = "IPv6"
DELTA = "Delta, LZ4"
T64 = "T64, ZSTD(1)"
ZSTD = "ZSTD(1)"
# Codecs of the busiest table, chosen by bench/insert.py: numbers cut to the bits in use, then LZ4, take as little room
# as with ZSTD and a third less time; LZ4 alone is as good for ports and flags; addresses are worth ZSTD.  The UUIDs of
# VMs, two of 16 bytes a row, would cost a sixth of an insert: they are few, and stored as names are.
BITS = "T64, LZ4"
LZ4 = "LZ4"


def mac_text(column: str) -> str:
    """Return an SQL expression that prints a MAC number in its usual form.

    Without a lambda: ClickHouse refuses every ALTER of a table with two equal lambdas in its aliases.
    """
    return f"lower(MACNumToString({column}))"


def _name(name: str, doc: str) -> Column:
    return Column(name, NAME, doc, missing="''", origin=Origin.ENRICH)


WHERE_FROM = (
    Column(
        "time_received",
        TIME_US,
        "When the datagram arrived at the collector, by the kernel's clock where it is stated.",
        unit="µs since 1970",
        codec=DELTA,
    ),
    Column(
        "exporter",
        ADDRESS,
        "Sender address of the datagram; IPv4 is mapped (`::ffff:a.b.c.d`).",
        clickhouse_type=IPV6,
        missing="::",
        codec=ZSTD,
    ),
    Column(
        "agent",
        ADDRESS,
        "sFlow agent address, which may differ from the sender.",
        clickhouse_type=IPV6,
        missing="::",
        element="sFlow 5 sample_datagram.agent_address",
        codec=ZSTD,
    ),
    Column(
        "domain",
        UINT32,
        "Observation domain (IPFIX), source id (NetFlow v9), sub-agent (sFlow), engine type × 256 + engine id (v5).",
        element="observationDomainId(149)",
        codec=LZ4,
    ),
    Column(
        "protocol",
        ENUM,
        "The export protocol.",
        names=("unknown", "sflow5", "netflow1", "netflow5", "netflow7", "netflow9", "ipfix"),
        codec=LZ4,
    ),
)

WHEN = (
    Column(
        "flow_start",
        TIME_US,
        "First packet of the record, by the exporter's clock made absolute; time of receipt for sFlow samples. Where "
        "an exporter states the begin of the flow instead, the end of the flow's last record.",
        unit="µs since 1970",
        missing="time of the header",
        element="flowStartMilliseconds(152) and its kin: 22, 150, 154, 156, 158",
        codec=BITS,
    ),
    Column(
        "flow_end",
        TIME_US,
        "Last packet of the record, as `flow_start`.",
        unit="µs since 1970",
        missing="time of the header",
        element="flowEndMilliseconds(153) and its kin: 21, 151, 155, 157, 159",
        codec=BITS,
    ),
)

HOW_MUCH = (
    Column(
        "packets",
        UINT64,
        "Packets of the record since its last report, as reported, before scaling.",
        unit="packets",
        element="packetDeltaCount(2)",
        codec=BITS,
    ),
    Column(
        "bytes",
        UINT64,
        "Layer 3 bytes, as reported, before scaling; for sFlow from the sampled header. Open vSwitch NetFlow v5 "
        "counts the Ethernet header, and towards a tunnel the encapsulation, too.",
        unit="bytes",
        element="octetDeltaCount(1)",
        codec=BITS,
    ),
    Column(
        "frame_bytes",
        UINT64,
        "Layer 2 bytes without FCS, as reported, before scaling.",
        unit="bytes",
        element="layer2OctetDeltaCount(352); sFlow frame_length − stripped",
        codec=BITS,
    ),
    Column(
        "sampling_rate",
        UINT32,
        "One in this many packets was sampled; packets × sampling_rate estimates the traffic.",
        missing="1",
        element="samplingInterval(34), samplerRandomInterval(50), 305, 306, 309–311; sFlow sampling_rate",
        codec=LZ4,
    ),
    Column(
        "rate_source",
        ENUM,
        "Where the sampling rate comes from.",
        names=("unstated", "override", "record", "options", "header"),
        missing="unstated",
        codec=LZ4,
    ),
    Column(
        "samples",
        UINT32,
        "Sampled packets behind the row: what the confidence interval rests on.",
        unit="packets",
        codec=BITS,
    ),
    Column(
        "packets_estimated",
        UINT64,
        "Packets scaled by the sampling rate.",
        unit="packets",
        alias="packets * sampling_rate",
    ),
    Column(
        "bytes_estimated", UINT64, "Bytes scaled by the sampling rate.", unit="bytes", alias="bytes * sampling_rate"
    ),
    Column(
        "drop_hint_packets",
        UINT64,
        "Packets that the exporter says it discarded. A hint: Open vSwitch reports these for recirculated packets too. "
        "Never counted as loss.",
        unit="packets",
        element="droppedPacketDeltaCount(133); sFlow output format 1",
        codec=BITS,
    ),
)

LAYER_2 = (
    Column("src_mac", UINT64, "Source MAC address as a 48-bit number.", element="sourceMacAddress(56)", codec=BITS),
    Column("dst_mac", UINT64, "Destination MAC address as a number.", element="destinationMacAddress(80)", codec=BITS),
    Column(
        "src_mac_text",
        UINT64,
        "Source MAC address, as `52:54:00:0a:00:01`.",
        clickhouse_type="String",
        alias=mac_text("src_mac"),
    ),
    Column(
        "dst_mac_text",
        UINT64,
        "Destination MAC address, as `52:54:00:0a:00:01`.",
        clickhouse_type="String",
        alias=mac_text("dst_mac"),
    ),
    Column("ether_type", UINT16, "EtherType behind all VLAN tags.", element="ethernetType(256)", codec=LZ4),
    Column(
        "vlan",
        UINT16,
        "VLAN id: of the frame, else of the switch port as the exporter states it.",
        element="vlanId(58), dot1qVlanId(243); sFlow extended_switch",
        codec=BITS,
    ),
)

TUNNEL = (
    Column(
        "tunnel",
        ENUM,
        "Encapsulation in which the packet was seen, or which the switch adds or removes.",
        names=("none", "vxlan", "geneve", "gre", "ipip", "nvgre", "vxlan_gpe", "erspan", "other"),
        missing="none",
        element="ovs tunnelType(6876/891); sFlow 1021–1030",
        codec=LZ4,
    ),
    Column(
        "vni",
        UINT32,
        "VXLAN or Geneve network identifier, NVGRE VSID, GRE key.",
        element="ovs tunnelKey(6876/892), layer2SegmentId(351); sFlow 1029, 1030",
        codec=BITS,
    ),
    Column(
        "outer_src_ip",
        ADDRESS,
        "Source tunnel end point.",
        clickhouse_type=IPV6,
        missing="::",
        element="ovs tunnelSourceIPv4Address(6876/893); sFlow 1023–1026",
        codec=ZSTD,
    ),
    Column(
        "outer_dst_ip",
        ADDRESS,
        "Destination tunnel end point.",
        clickhouse_type=IPV6,
        missing="::",
        element="ovs tunnelDestinationIPv4Address(6876/894); sFlow 1023–1026",
        codec=ZSTD,
    ),
)

LAYER_3_4 = (
    Column(
        "src_ip",
        ADDRESS,
        "Source address, the inner one where a tunnel is seen; IPv4 is mapped.",
        clickhouse_type=IPV6,
        missing="::",
        element="sourceIPv4Address(8), sourceIPv6Address(27)",
        codec=ZSTD,
    ),
    Column(
        "dst_ip",
        ADDRESS,
        "Destination address, as `src_ip`.",
        clickhouse_type=IPV6,
        missing="::",
        element="destinationIPv4Address(12), destinationIPv6Address(28)",
        codec=ZSTD,
    ),
    Column("ip_protocol", UINT8, "IP protocol number.", element="protocolIdentifier(4)", codec=LZ4),
    Column("src_port", UINT16, "Source port.", element="sourceTransportPort(7), 180, 182", codec=LZ4),
    Column("dst_port", UINT16, "Destination port.", element="destinationTransportPort(11), 181, 183", codec=LZ4),
    Column("tcp_flags", UINT16, "TCP flags, OR over the record.", element="tcpControlBits(6)", codec=LZ4),
    Column("tcp_seq", UINT32, "TCP sequence number where seen.", element="tcpSequenceNumber(184)", codec=LZ4),
    Column(
        "tcp_rtt_us",
        UINT32,
        "Round trip time between the two ends as TCP at one of them states it (smoothed) at the time of the sample.",
        unit="µs",
        missing="0: not stated",
        element="sFlow 2209 extended_tcp_info.rtt",
        codec=BITS,
    ),
    Column(
        "tcp_rtt_deviation_us",
        UINT32,
        "Mean deviation of `tcp_rtt_us`, as the same TCP states it (smoothed).",
        unit="µs",
        element="sFlow 2209 extended_tcp_info.rttvar",
        codec=BITS,
    ),
    Column(
        "tcp_rtt_min_us",
        UINT32,
        "Least round trip time that the same TCP met lately.",
        unit="µs",
        missing="0: not stated",
        element="sFlow 2209 extended_tcp_info.min_rtt",
        codec=BITS,
    ),
    Column("icmp_type", UINT8, "ICMP or ICMPv6 type.", element="icmpTypeCodeIPv4(32), 139, 176, 178", codec=LZ4),
    Column("icmp_code", UINT8, "ICMP or ICMPv6 code.", element="icmpTypeCodeIPv4(32), 139, 177, 179", codec=LZ4),
    Column("tos", UINT8, "IPv4 TOS or IPv6 traffic class octet.", element="ipClassOfService(5)", codec=LZ4),
    Column("ttl", UINT8, "IPv4 TTL or IPv6 hop limit.", element="ipTTL(192), minimumTTL(52)", codec=LZ4),
    Column(
        "fragment",
        UINT8,
        "0 whole packet, 1 first fragment, 2 later fragment (it shows no ports).",
        element="fragmentOffset(88)",
        codec=LZ4,
    ),
)

INTERFACES = (
    Column(
        "in_if",
        UINT32,
        "Interface the packet came in by: ifIndex, or OpenFlow port in Open vSwitch NetFlow v5.",
        element="ingressInterface(10)",
        codec=BITS,
    ),
    Column(
        "out_if",
        UINT32,
        "Interface the packet went out by; the number of interfaces where `out_kind` is `multiple`.",
        element="egressInterface(14)",
        codec=BITS,
    ),
    Column(
        "in_if_name",
        NAME,
        "Name of the incoming interface where the record states it.",
        missing="''",
        element="interfaceName(82)",
        codec=LZ4,
    ),
    Column(
        "out_if_name",
        NAME,
        "Name of the outgoing interface where the record states it.",
        missing="''",
        element="interfaceName(82), second occurrence",
        codec=LZ4,
    ),
    Column(
        "out_kind",
        ENUM,
        "What `out_if` is.",
        names=("unknown", "index", "discarded", "multiple", "local"),
        missing="unknown",
        element="sFlow interface format",
        codec=LZ4,
    ),
    Column("drop_reason", UINT16, "sFlow reason code of a discarded packet.", element="sFlow 5 drop reason", codec=LZ4),
    Column(
        "direction",
        ENUM,
        "Observed on the way in or out.",
        names=("unknown", "ingress", "egress"),
        missing="unknown",
        element="flowDirection(61)",
        codec=LZ4,
    ),
    Column("end_reason", UINT8, "Why the record was exported.", element="flowEndReason(136)", codec=LZ4),
)

NAMED = (
    _name("src_vm", "Name of the sending VM."),
    _name("dst_vm", "Name of the receiving VM."),
    _name("src_project", "Project of the sending VM."),
    _name("dst_project", "Project of the receiving VM."),
    _name("src_host", "Hypervisor of the sending VM at the time of the flow."),
    _name("dst_host", "Hypervisor of the receiving VM at the time of the flow."),
    _name("network", "Virtual network of the flow."),
    Column(
        "src_vm_uuid",
        NAMED_UUID,
        "UUID of the sending VM.",
        missing="zeros",
        origin=Origin.ENRICH,
        codec=LZ4,
    ),
    Column(
        "dst_vm_uuid",
        NAMED_UUID,
        "UUID of the receiving VM.",
        missing="zeros",
        origin=Origin.ENRICH,
        codec=LZ4,
    ),
    Column(
        "sighting",
        ENUM,
        "From where this switch saw the packet; traffic volume counts source sightings.",
        names=("unknown", "source", "destination", "both", "transit", "external"),
        missing="unknown",
        origin=Origin.ENRICH,
        codec=LZ4,
    ),
)

STORED = (
    Column(
        "rollup_group",
        UINT64,
        "Inserts whose sums come into `pair_10s` together; see table `rollup_groups`.",
        missing="0: in no rollup",
        origin=Origin.STORE,
        codec="Delta, LZ4",
    ),
)

FLOWS = Table(
    "flows",
    "One decoded flow record or packet sample.",
    (*WHERE_FROM, *WHEN, *HOW_MUCH, *LAYER_2, *TUNNEL, *LAYER_3_4, *INTERFACES, *NAMED, *STORED),
    # Rows already come in this order, so an insert need not sort; with a second key it would.
    order_by=("time_received",),
    time="time_received",
    ttl_days=7,
    settings={
        # Rows are in order of time, and queries read minutes: larger granules do not slow them, and save a tenth of an
        # insert and a quarter of a merge (bench/insert.py).
        "index_granularity": 2**16,
        # Over a hundred new files cost more than one, for an insert of any size.
        "min_rows_for_wide_part": 2**22,
        # A few dozen parts per day are as good as one, and save merging the large ones again.
        "max_bytes_to_merge_at_max_space_in_pool": 2**33,
    },
    tuning={
        # Statistics of all columns cost a third of each merge, in a table whose queries filter by time.
        "auto_statistics_types": "''",
        # Merging more rows at a time means merging each less often.
        "merge_selector_base": "12",
    },
)
