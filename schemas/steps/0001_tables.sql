-- Release 0.1: the first tables.
CREATE TABLE IF NOT EXISTS flows${local}${on_cluster}
(
    `time_received` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `exporter` IPv6 CODEC(ZSTD(1)),
    `agent` IPv6 CODEC(ZSTD(1)),
    `domain` UInt32 CODEC(LZ4),
    `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4),
    `flow_start` DateTime64(6, 'UTC') CODEC(T64, LZ4),
    `flow_end` DateTime64(6, 'UTC') CODEC(T64, LZ4),
    `packets` UInt64 CODEC(T64, LZ4),
    `bytes` UInt64 CODEC(T64, LZ4),
    `frame_bytes` UInt64 CODEC(T64, LZ4),
    `sampling_rate` UInt32 CODEC(LZ4),
    `rate_source` Enum8('unstated' = 0, 'override' = 1, 'record' = 2, 'options' = 3, 'header' = 4) CODEC(LZ4),
    `samples` UInt32 CODEC(T64, LZ4),
    `packets_estimated` UInt64 ALIAS packets * sampling_rate,
    `bytes_estimated` UInt64 ALIAS bytes * sampling_rate,
    `drop_hint_packets` UInt64 CODEC(T64, LZ4),
    `src_mac` UInt64 CODEC(T64, LZ4),
    `dst_mac` UInt64 CODEC(T64, LZ4),
    `src_mac_text` String ALIAS lower(MACNumToString(src_mac)),
    `dst_mac_text` String ALIAS lower(MACNumToString(dst_mac)),
    `ether_type` UInt16 CODEC(LZ4),
    `vlan` UInt16 CODEC(T64, LZ4),
    `tunnel` Enum8('none' = 0, 'vxlan' = 1, 'geneve' = 2, 'gre' = 3, 'ipip' = 4, 'nvgre' = 5, 'vxlan_gpe' = 6, 'erspan' = 7, 'other' = 8) CODEC(LZ4),
    `vni` UInt32 CODEC(T64, LZ4),
    `outer_src_ip` IPv6 CODEC(ZSTD(1)),
    `outer_dst_ip` IPv6 CODEC(ZSTD(1)),
    `src_ip` IPv6 CODEC(ZSTD(1)),
    `dst_ip` IPv6 CODEC(ZSTD(1)),
    `ip_protocol` UInt8 CODEC(LZ4),
    `src_port` UInt16 CODEC(LZ4),
    `dst_port` UInt16 CODEC(LZ4),
    `tcp_flags` UInt16 CODEC(LZ4),
    `tcp_seq` UInt32 CODEC(LZ4),
    `icmp_type` UInt8 CODEC(LZ4),
    `icmp_code` UInt8 CODEC(LZ4),
    `tos` UInt8 CODEC(LZ4),
    `ttl` UInt8 CODEC(LZ4),
    `fragment` UInt8 CODEC(LZ4),
    `in_if` UInt32 CODEC(T64, LZ4),
    `out_if` UInt32 CODEC(T64, LZ4),
    `in_if_name` LowCardinality(String) CODEC(LZ4),
    `out_if_name` LowCardinality(String) CODEC(LZ4),
    `out_kind` Enum8('unknown' = 0, 'index' = 1, 'discarded' = 2, 'multiple' = 3, 'local' = 4) CODEC(LZ4),
    `drop_reason` UInt16 CODEC(LZ4),
    `direction` Enum8('unknown' = 0, 'ingress' = 1, 'egress' = 2) CODEC(LZ4),
    `end_reason` UInt8 CODEC(LZ4),
    `src_vm` LowCardinality(String),
    `dst_vm` LowCardinality(String),
    `src_project` LowCardinality(String),
    `dst_project` LowCardinality(String),
    `src_host` LowCardinality(String),
    `dst_host` LowCardinality(String),
    `network` LowCardinality(String),
    `src_vm_uuid` UUID CODEC(ZSTD(1)),
    `dst_vm_uuid` UUID CODEC(ZSTD(1)),
    `sighting` Enum8('unknown' = 0, 'source' = 1, 'destination' = 2, 'both' = 3, 'transit' = 4, 'external' = 5) CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time_received)
ORDER BY (time_received)
TTL toDateTime(time_received) + toIntervalDay(7)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS interface_counters${local}${on_cluster}
(
    `time_received` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `exporter` IPv6 CODEC(ZSTD(1)),
    `agent` IPv6 CODEC(ZSTD(1)),
    `domain` UInt32 CODEC(LZ4),
    `source` Enum8('sflow' = 0, 'libvirt' = 1, 'ovsdb' = 2) CODEC(ZSTD(1)),
    `source_class` UInt8 CODEC(ZSTD(1)),
    `source_index` UInt32 CODEC(ZSTD(1)),
    `if_index` UInt32 CODEC(ZSTD(1)),
    `if_name` LowCardinality(String) CODEC(ZSTD(1)),
    `if_type` UInt32 CODEC(ZSTD(1)),
    `if_speed` UInt64 CODEC(T64, ZSTD(1)),
    `if_direction` UInt8,
    `if_status` UInt8,
    `promiscuous` UInt8,
    `datapath_id` UInt64 CODEC(ZSTD(1)),
    `of_port` UInt32 CODEC(ZSTD(1)),
    `in_bytes` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_unicast_packets` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_multicast_packets` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_broadcast_packets` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_discards` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_unknown_protocols` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_bytes` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_unicast_packets` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_multicast_packets` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_broadcast_packets` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_discards` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_alignment_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_fcs_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_single_collisions` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_multiple_collisions` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_sqe_test_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_deferred_transmissions` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_late_collisions` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_excessive_collisions` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_mac_transmit_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_carrier_sense_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_frame_too_longs` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_mac_receive_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `eth_symbol_errors` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `delta_state` Enum8('first' = 0, 'ok' = 1, 'reset' = 2) CODEC(ZSTD(1)),
    `interval_us` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_bytes_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_unicast_packets_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_multicast_packets_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_broadcast_packets_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_discards_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_errors_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `in_unknown_protocols_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_bytes_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_unicast_packets_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_multicast_packets_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_broadcast_packets_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_discards_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `out_errors_delta` Nullable(UInt64) CODEC(T64, ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time_received)
ORDER BY (time_received, agent, if_index)
TTL toDateTime(time_received) + toIntervalDay(30)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS drops${local}${on_cluster}
(
    `time_received` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `exporter` IPv6 CODEC(ZSTD(1)),
    `agent` IPv6 CODEC(ZSTD(1)),
    `domain` UInt32 CODEC(LZ4),
    `in_if` UInt32 CODEC(T64, LZ4),
    `out_if` UInt32 CODEC(T64, LZ4),
    `drop_reason` UInt16 CODEC(LZ4),
    `packets` UInt64 CODEC(T64, LZ4),
    `bytes` UInt64 CODEC(T64, LZ4),
    `frame_bytes` UInt64 CODEC(T64, LZ4),
    `src_mac` UInt64 CODEC(T64, LZ4),
    `dst_mac` UInt64 CODEC(T64, LZ4),
    `ether_type` UInt16 CODEC(LZ4),
    `vlan` UInt16 CODEC(T64, LZ4),
    `tunnel` Enum8('none' = 0, 'vxlan' = 1, 'geneve' = 2, 'gre' = 3, 'ipip' = 4, 'nvgre' = 5, 'vxlan_gpe' = 6, 'erspan' = 7, 'other' = 8) CODEC(LZ4),
    `vni` UInt32 CODEC(T64, LZ4),
    `outer_src_ip` IPv6 CODEC(ZSTD(1)),
    `outer_dst_ip` IPv6 CODEC(ZSTD(1)),
    `src_ip` IPv6 CODEC(ZSTD(1)),
    `dst_ip` IPv6 CODEC(ZSTD(1)),
    `ip_protocol` UInt8 CODEC(LZ4),
    `src_port` UInt16 CODEC(LZ4),
    `dst_port` UInt16 CODEC(LZ4),
    `tcp_flags` UInt16 CODEC(LZ4),
    `tcp_seq` UInt32 CODEC(LZ4),
    `icmp_type` UInt8 CODEC(LZ4),
    `icmp_code` UInt8 CODEC(LZ4),
    `tos` UInt8 CODEC(LZ4),
    `ttl` UInt8 CODEC(LZ4),
    `fragment` UInt8 CODEC(LZ4),
    `reason_name` LowCardinality(String) CODEC(ZSTD(1)),
    `source_class` UInt8 CODEC(ZSTD(1)),
    `source_index` UInt32 CODEC(ZSTD(1)),
    `suppressed` UInt32 CODEC(ZSTD(1)),
    `function` LowCardinality(String),
    `trap` LowCardinality(String),
    `linux_reason` LowCardinality(String)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time_received)
ORDER BY (time_received, agent)
TTL toDateTime(time_received) + toIntervalDay(30)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS exporters${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `interval_us` UInt64 CODEC(T64, ZSTD(1)),
    `exporter` IPv6 CODEC(ZSTD(1)),
    `agent` IPv6 CODEC(ZSTD(1)),
    `domain` UInt32 CODEC(LZ4),
    `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4),
    `source_port` UInt32 CODEC(ZSTD(1)),
    `datagrams` UInt64 CODEC(T64, ZSTD(1)),
    `octets` UInt64 CODEC(T64, ZSTD(1)),
    `records` UInt64 CODEC(T64, ZSTD(1)),
    `counter_records` UInt64 CODEC(T64, ZSTD(1)),
    `export_lost` UInt64 CODEC(T64, ZSTD(1)),
    `samples_lost` UInt64 CODEC(T64, ZSTD(1)),
    `agent_drops` UInt64 CODEC(T64, ZSTD(1)),
    `datapath_lost` UInt64 CODEC(T64, ZSTD(1)),
    `duplicates` UInt64 CODEC(T64, ZSTD(1)),
    `reordered` UInt64 CODEC(T64, ZSTD(1)),
    `restarts` UInt64 CODEC(T64, ZSTD(1)),
    `templates` UInt64 CODEC(T64, ZSTD(1)),
    `held_bytes` UInt64 CODEC(T64, ZSTD(1)),
    `problems` Map(LowCardinality(String), UInt64),
    `sampling_rate` UInt32 CODEC(ZSTD(1)),
    `clock_skew_us` Nullable(Int64) CODEC(T64, ZSTD(1)),
    `kernel_drops` UInt64 CODEC(T64, ZSTD(1)),
    `queue_drops` UInt64 CODEC(T64, ZSTD(1)),
    `findings` LowCardinality(String) CODEC(ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, exporter)
TTL toDateTime(time) + toIntervalDay(90)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS inventory${local}${on_cluster}
(
    `valid_from` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `valid_to` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `source` Enum8('sflow' = 0, 'libvirt' = 1, 'ovsdb' = 2, 'openstack' = 3, 'static' = 4, 'interface_name' = 5) CODEC(ZSTD(1)),
    `vm_uuid` UUID CODEC(ZSTD(1)),
    `vm` LowCardinality(String) CODEC(ZSTD(1)),
    `project` LowCardinality(String) CODEC(ZSTD(1)),
    `host` LowCardinality(String),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `mac` UInt64 CODEC(ZSTD(1)),
    `mac_text` String ALIAS lower(MACNumToString(mac)),
    `ips` Array(IPv6) CODEC(ZSTD(1)),
    `port_name` LowCardinality(String) CODEC(ZSTD(1)),
    `if_index` UInt32 CODEC(ZSTD(1)),
    `agent` IPv6 CODEC(ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(valid_to)
ORDER BY (mac, valid_from)
TTL toDateTime(valid_to) + toIntervalDay(365)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;
