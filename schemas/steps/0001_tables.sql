-- Release 0.1.0: the first tables.
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
    `tcp_rtt_us` UInt32 CODEC(T64, LZ4),
    `tcp_rtt_deviation_us` UInt32 CODEC(T64, LZ4),
    `tcp_rtt_min_us` UInt32 CODEC(T64, LZ4),
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
    `src_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `dst_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `sighting` Enum8('unknown' = 0, 'source' = 1, 'destination' = 2, 'both' = 3, 'transit' = 4, 'external' = 5) CODEC(LZ4),
    `rollup_group` UInt64 CODEC(Delta, LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time_received)
ORDER BY (time_received)
TTL toDateTime(time_received) + toIntervalDay(7)
SETTINGS index_granularity = 65536, min_rows_for_wide_part = 4194304, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1, max_bytes_to_merge_at_max_space_in_pool = 8589934592;

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
    `out_errors_delta` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `vm` LowCardinality(String) CODEC(ZSTD(1)),
    `project` LowCardinality(String) CODEC(ZSTD(1)),
    `host` LowCardinality(String) CODEC(ZSTD(1)),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `vm_uuid` LowCardinality(UUID) CODEC(ZSTD(1)),
    `mac` UInt64 CODEC(ZSTD(1))
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
    `linux_reason` LowCardinality(String),
    `src_vm` LowCardinality(String),
    `dst_vm` LowCardinality(String),
    `src_project` LowCardinality(String),
    `dst_project` LowCardinality(String),
    `src_host` LowCardinality(String),
    `dst_host` LowCardinality(String),
    `network` LowCardinality(String),
    `src_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `dst_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `sighting` Enum8('unknown' = 0, 'source' = 1, 'destination' = 2, 'both' = 3, 'transit' = 4, 'external' = 5) CODEC(LZ4)
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
    `bytes` UInt64 CODEC(T64, ZSTD(1)),
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
    `template_age_us` Nullable(UInt64) CODEC(T64, ZSTD(1)),
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

CREATE TABLE IF NOT EXISTS gaps${local}${on_cluster}
(
    `begins` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `ends` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `reporter` IPv6 CODEC(LZ4),
    `domain` UInt32 CODEC(LZ4),
    `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4),
    `reason` Enum8('started' = 0, 'reopened' = 1, 'restarted' = 2, 'lost' = 3, 'away' = 4, 'dropped' = 5, 'silent' = 6) CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(ends)
ORDER BY (ends, reporter)
TTL toDateTime(ends) + toIntervalDay(400)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS inventory${local}${on_cluster}
(
    `valid_from` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `valid_to` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `open` UInt8 CODEC(ZSTD(1)),
    `source` Enum8('sflow' = 0, 'libvirt' = 1, 'ovsdb' = 2, 'openstack' = 3, 'static' = 4, 'interface_name' = 5) CODEC(ZSTD(1)),
    `sources` LowCardinality(String) CODEC(ZSTD(1)),
    `vm_uuid` UUID CODEC(ZSTD(1)),
    `vm` LowCardinality(String) CODEC(ZSTD(1)),
    `project` LowCardinality(String) CODEC(ZSTD(1)),
    `host` LowCardinality(String),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `vni` UInt32 CODEC(ZSTD(1)),
    `vlan` UInt16 CODEC(ZSTD(1)),
    `mac` UInt64 CODEC(ZSTD(1)),
    `mac_text` String ALIAS lower(MACNumToString(mac)),
    `ips` Array(IPv6) CODEC(ZSTD(1)),
    `port_name` LowCardinality(String) CODEC(ZSTD(1)),
    `if_index` UInt32 CODEC(ZSTD(1)),
    `of_port` UInt32 CODEC(ZSTD(1)),
    `bridge` LowCardinality(String) CODEC(ZSTD(1)),
    `port_id` LowCardinality(String) CODEC(ZSTD(1)),
    `speed` UInt64 CODEC(ZSTD(1)),
    `agent` IPv6 CODEC(ZSTD(1)),
    `conflict` LowCardinality(String) CODEC(ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(valid_to)
PARTITION BY toYYYYMM(valid_to)
ORDER BY (mac, valid_from, vm_uuid, host, port_name, vm, network, vni, vlan)
TTL toDateTime(valid_to) + toIntervalDay(365)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS latency${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `interval_us` UInt64 CODEC(T64, ZSTD(1)),
    `src_vm` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_vm` LowCardinality(String) CODEC(ZSTD(1)),
    `src_project` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_project` LowCardinality(String) CODEC(ZSTD(1)),
    `src_host` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_host` LowCardinality(String) CODEC(ZSTD(1)),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `src_vm_uuid` UUID CODEC(ZSTD(1)),
    `dst_vm_uuid` UUID CODEC(ZSTD(1)),
    `method` Enum8('handshake' = 0, 'one_way' = 1, 'tcp_info' = 2, 'probe' = 3, 'mirror' = 4) CODEC(LZ4),
    `trip` Enum8('one_way' = 0, 'round_trip' = 1) CODEC(LZ4),
    `latency_us` Int64 CODEC(T64, LZ4),
    `spread_us` UInt64 CODEC(T64, ZSTD(1)),
    `latency_min_us` Int64 CODEC(T64, LZ4),
    `jitter_us` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `samples` UInt32 CODEC(LZ4),
    `clock` Enum8('same' = 0, 'bounded' = 1) CODEC(LZ4),
    `clock_offset_us` Nullable(Int64) CODEC(T64, LZ4),
    `clock_error_us` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `src_exporter` IPv6 CODEC(ZSTD(1)),
    `dst_exporter` IPv6 CODEC(ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, src_vm_uuid, dst_vm_uuid)
TTL toDateTime(time) + toIntervalDay(90)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS probes${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `interval_us` UInt64 CODEC(T64, ZSTD(1)),
    `session` UInt32 CODEC(LZ4),
    `reflector` LowCardinality(String) CODEC(ZSTD(1)),
    `src_ip` IPv6 CODEC(ZSTD(1)),
    `dst_ip` IPv6 CODEC(ZSTD(1)),
    `dst_port` UInt16 CODEC(LZ4),
    `dscp` UInt8 CODEC(LZ4),
    `octets` UInt16 CODEC(LZ4),
    `authenticated` UInt8 CODEC(LZ4),
    `sent` UInt32 CODEC(T64, ZSTD(1)),
    `received` UInt32 CODEC(T64, ZSTD(1)),
    `lost` UInt32 CODEC(T64, ZSTD(1)),
    `late` UInt32 CODEC(T64, ZSTD(1)),
    `lost_forward` Nullable(UInt32) CODEC(T64, ZSTD(1)),
    `lost_reverse` Nullable(UInt32) CODEC(T64, ZSTD(1)),
    `duplicates` UInt32 CODEC(T64, ZSTD(1)),
    `reordered` UInt32 CODEC(T64, ZSTD(1)),
    `unreachable` UInt32 CODEC(T64, ZSTD(1)),
    `unsent` UInt32 CODEC(T64, ZSTD(1)),
    `refused` UInt32 CODEC(T64, ZSTD(1)),
    `round_trips` UInt32 CODEC(T64, ZSTD(1)),
    `rtt_min_us` Nullable(Float32) CODEC(ZSTD(1)),
    `rtt_median_us` Nullable(Float32) CODEC(ZSTD(1)),
    `rtt_p99_us` Nullable(Float32) CODEC(ZSTD(1)),
    `rtt_max_us` Nullable(Float32) CODEC(ZSTD(1)),
    `jitter_us` Nullable(Float32) CODEC(ZSTD(1)),
    `residence_us` Nullable(Float32) CODEC(ZSTD(1)),
    `forward_us` Nullable(Float32) CODEC(ZSTD(1)),
    `forward_error_us` Nullable(Float32) CODEC(ZSTD(1)),
    `forward_variation_us` Nullable(Float32) CODEC(ZSTD(1)),
    `reverse_us` Nullable(Float32) CODEC(ZSTD(1)),
    `reverse_error_us` Nullable(Float32) CODEC(ZSTD(1)),
    `reverse_variation_us` Nullable(Float32) CODEC(ZSTD(1)),
    `clock_offset_us` Nullable(Float64) CODEC(ZSTD(1)),
    `clock_error_us` Nullable(Float64) CODEC(ZSTD(1)),
    `skew_low_ppm` Nullable(Float32) CODEC(ZSTD(1)),
    `skew_high_ppm` Nullable(Float32) CODEC(ZSTD(1)),
    `clocks` Enum8('unknown' = 0, 'free' = 1, 'synchronised' = 2, 'uneven' = 3) CODEC(LZ4),
    `hops` Nullable(UInt8) CODEC(LZ4),
    `timestamps` Enum8('user' = 0, 'kernel' = 1) CODEC(LZ4),
    `reflector_timestamps` Enum8('unknown' = 0, 'software' = 1, 'hardware' = 2) CODEC(LZ4),
    `reflector_mode` Enum8('unknown' = 0, 'stateful' = 1, 'stateless' = 2) CODEC(LZ4),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `agent` LowCardinality(String) CODEC(ZSTD(1)),
    `boot` UInt64 CODEC(ZSTD(1)),
    `batch` UInt32 CODEC(T64, ZSTD(1)),
    `src_vm` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_vm` LowCardinality(String) CODEC(ZSTD(1)),
    `src_project` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_project` LowCardinality(String) CODEC(ZSTD(1)),
    `src_host` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_host` LowCardinality(String) CODEC(ZSTD(1)),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `src_vm_uuid` UUID CODEC(ZSTD(1)),
    `dst_vm_uuid` UUID CODEC(ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, agent, session)
TTL toDateTime(time) + toIntervalDay(90)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS alerts${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `version` UInt64 CODEC(T64, ZSTD(1)),
    `alert_id` String CODEC(ZSTD(1)),
    `fingerprint` String CODEC(ZSTD(1)),
    `rule` LowCardinality(String) CODEC(ZSTD(1)),
    `severity` Enum8('info' = 0, 'warning' = 1, 'critical' = 2) CODEC(LZ4),
    `scope` Enum8('pair' = 0, 'vm' = 1, 'interface' = 2, 'host' = 3, 'exporter' = 4, 'service' = 5) CODEC(LZ4),
    `labels` Map(LowCardinality(String), String),
    `series` UInt64 CODEC(ZSTD(1)),
    `status` Enum8('firing' = 0, 'acknowledged' = 1, 'resolved' = 2) CODEC(LZ4),
    `since` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `acknowledged` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `acknowledged_by` String CODEC(ZSTD(1)),
    `resolved` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `resolved_by` String CODEC(ZSTD(1)),
    `verdict` Enum8('none' = 0, 'true' = 1, 'false' = 2) CODEC(LZ4),
    `judged` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `stale_since` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `measure` LowCardinality(String) CODEC(ZSTD(1)),
    `unit` LowCardinality(String) CODEC(ZSTD(1)),
    `value` Nullable(Float64) CODEC(ZSTD(1)),
    `low` Nullable(Float64) CODEC(ZSTD(1)),
    `high` Nullable(Float64) CODEC(ZSTD(1)),
    `samples` Nullable(Float64) CODEC(ZSTD(1)),
    `evidence` String CODEC(ZSTD(1)),
    `threshold` Nullable(Float64) CODEC(ZSTD(1)),
    `condition` LowCardinality(String) CODEC(ZSTD(1)),
    `level` LowCardinality(String) CODEC(ZSTD(1)),
    `window_start` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `window_end` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `worst` Nullable(Float64) CODEC(ZSTD(1)),
    `notified` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `held_back` UInt8 CODEC(LZ4),
    `escalations` UInt32 CODEC(LZ4),
    `summary` String CODEC(ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
PARTITION BY toYYYYMM(time)
ORDER BY (alert_id)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS alert_events${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `alert_id` String CODEC(ZSTD(1)),
    `fingerprint` String CODEC(ZSTD(1)),
    `rule` LowCardinality(String) CODEC(ZSTD(1)),
    `severity` Enum8('info' = 0, 'warning' = 1, 'critical' = 2) CODEC(LZ4),
    `scope` Enum8('pair' = 0, 'vm' = 1, 'interface' = 2, 'host' = 3, 'exporter' = 4, 'service' = 5) CODEC(LZ4),
    `labels` Map(LowCardinality(String), String),
    `event` Enum8('firing' = 0, 'resolved' = 1, 'escalated' = 2, 'acknowledged' = 3, 'stale' = 4, 'measured' = 5, 'inhibited' = 6, 'silenced' = 7, 'notified' = 8, 'judged' = 9) CODEC(LZ4),
    `who` String CODEC(ZSTD(1)),
    `comment` String CODEC(ZSTD(1)),
    `measure` LowCardinality(String) CODEC(ZSTD(1)),
    `unit` LowCardinality(String) CODEC(ZSTD(1)),
    `value` Nullable(Float64) CODEC(ZSTD(1)),
    `low` Nullable(Float64) CODEC(ZSTD(1)),
    `high` Nullable(Float64) CODEC(ZSTD(1)),
    `samples` Nullable(Float64) CODEC(ZSTD(1)),
    `evidence` String CODEC(ZSTD(1)),
    `threshold` Nullable(Float64) CODEC(ZSTD(1)),
    `condition` LowCardinality(String) CODEC(ZSTD(1)),
    `level` LowCardinality(String) CODEC(ZSTD(1)),
    `window_start` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `window_end` DateTime64(6, 'UTC') CODEC(Delta, LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time, alert_id)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS alert_outbox${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `version` UInt64 CODEC(T64, ZSTD(1)),
    `message` String CODEC(ZSTD(1)),
    `receiver` LowCardinality(String) CODEC(ZSTD(1)),
    `state` Enum8('waiting' = 0, 'delivered' = 1, 'given_up' = 2) CODEC(LZ4),
    `body` String CODEC(ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
PARTITION BY toYYYYMMDD(time)
ORDER BY (message, receiver)
TTL toDateTime(time) + toIntervalDay(30)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS alert_silences${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `version` UInt64 CODEC(T64, ZSTD(1)),
    `silence_id` String CODEC(ZSTD(1)),
    `until` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `matchers` Map(String, String),
    `who` String CODEC(ZSTD(1)),
    `comment` String CODEC(ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
PARTITION BY toYYYYMM(time)
ORDER BY (silence_id)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS action_runs${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `action` LowCardinality(String) CODEC(ZSTD(1)),
    `kind` Enum8('command' = 0, 'webhook' = 1) CODEC(LZ4),
    `result` Enum8('ok' = 0, 'failed' = 1, 'late' = 2, 'limited' = 3, 'dry_run' = 4, 'stopped' = 5) CODEC(LZ4),
    `event` LowCardinality(String) CODEC(ZSTD(1)),
    `rule` LowCardinality(String) CODEC(ZSTD(1)),
    `alert_id` String CODEC(ZSTD(1)),
    `target` String CODEC(ZSTD(1)),
    `status` LowCardinality(String) CODEC(ZSTD(1)),
    `duration_us` UInt64 CODEC(T64, ZSTD(1)),
    `output` String CODEC(ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time, action)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS anomaly_scores${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `level` LowCardinality(String) CODEC(ZSTD(1)),
    `rule` LowCardinality(String) CODEC(ZSTD(1)),
    `scope` Enum8('pair' = 0, 'vm' = 1, 'interface' = 2, 'host' = 3, 'exporter' = 4, 'service' = 5) CODEC(LZ4),
    `series` UInt64 CODEC(ZSTD(1)),
    `labels` Map(LowCardinality(String), String),
    `measure` LowCardinality(String) CODEC(ZSTD(1)),
    `unit` LowCardinality(String) CODEC(ZSTD(1)),
    `value` Nullable(Float64) CODEC(ZSTD(1)),
    `low` Nullable(Float64) CODEC(ZSTD(1)),
    `high` Nullable(Float64) CODEC(ZSTD(1)),
    `expected` Nullable(Float64) CODEC(ZSTD(1)),
    `expected_low` Nullable(Float64) CODEC(ZSTD(1)),
    `expected_high` Nullable(Float64) CODEC(ZSTD(1)),
    `score` Float64 CODEC(ZSTD(1)),
    `evidence` String CODEC(ZSTD(1)),
    `beyond` UInt8 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, rule, series)
TTL toDateTime(time) + toIntervalDay(30)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS pair_10s${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `pair` UInt64 CODEC(LZ4),
    `src_vm` LowCardinality(String) CODEC(LZ4),
    `dst_vm` LowCardinality(String) CODEC(LZ4),
    `src_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `dst_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `src_host` LowCardinality(String) CODEC(LZ4),
    `dst_host` LowCardinality(String) CODEC(LZ4),
    `network` LowCardinality(String) CODEC(LZ4),
    `sighting` Enum8('unknown' = 0, 'source' = 1, 'destination' = 2, 'both' = 3, 'transit' = 4, 'external' = 5) CODEC(LZ4),
    `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4),
    `vantage` UInt64 CODEC(LZ4),
    `reporter` IPv6 CODEC(LZ4),
    `domain` UInt32 CODEC(LZ4),
    `records` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `samples` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `frame_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `rate_unstated` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `sampling_rate_max` SimpleAggregateFunction(max, UInt32) CODEC(LZ4),
    `drop_hint_packets` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `drops` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_opened` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_accepted` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_reset` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `tcp_flags_missing` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections` AggregateFunction(uniqCombined(12), UInt64)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMMDD(time)
PRIMARY KEY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting)
ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage, reporter, domain)
TTL toDateTime(time) + toIntervalDay(2)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS pair_1m${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `pair` UInt64 CODEC(LZ4),
    `src_vm` LowCardinality(String) CODEC(LZ4),
    `dst_vm` LowCardinality(String) CODEC(LZ4),
    `src_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `dst_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `src_host` LowCardinality(String) CODEC(LZ4),
    `dst_host` LowCardinality(String) CODEC(LZ4),
    `network` LowCardinality(String) CODEC(LZ4),
    `sighting` Enum8('unknown' = 0, 'source' = 1, 'destination' = 2, 'both' = 3, 'transit' = 4, 'external' = 5) CODEC(LZ4),
    `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4),
    `vantage` UInt64 CODEC(LZ4),
    `reporter` IPv6 CODEC(LZ4),
    `domain` UInt32 CODEC(LZ4),
    `records` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `samples` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `frame_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `rate_unstated` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `sampling_rate_max` SimpleAggregateFunction(max, UInt32) CODEC(LZ4),
    `drop_hint_packets` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `drops` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_opened` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_accepted` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_reset` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `tcp_flags_missing` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections` AggregateFunction(uniqCombined(12), UInt64)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMMDD(time)
PRIMARY KEY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting)
ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage, reporter, domain)
TTL toDateTime(time) + toIntervalDay(30)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS pair_1h${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `pair` UInt64 CODEC(LZ4),
    `src_vm` LowCardinality(String) CODEC(LZ4),
    `dst_vm` LowCardinality(String) CODEC(LZ4),
    `src_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `dst_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `src_host` LowCardinality(String) CODEC(LZ4),
    `dst_host` LowCardinality(String) CODEC(LZ4),
    `network` LowCardinality(String) CODEC(LZ4),
    `sighting` Enum8('unknown' = 0, 'source' = 1, 'destination' = 2, 'both' = 3, 'transit' = 4, 'external' = 5) CODEC(LZ4),
    `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4),
    `vantage` UInt64 CODEC(LZ4),
    `reporter` IPv6 CODEC(LZ4),
    `domain` UInt32 CODEC(LZ4),
    `records` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `samples` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `frame_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `rate_unstated` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `sampling_rate_max` SimpleAggregateFunction(max, UInt32) CODEC(LZ4),
    `drop_hint_packets` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `drops` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_opened` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_accepted` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections_reset` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `tcp_flags_missing` SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    `connections` AggregateFunction(uniqCombined(12), UInt64)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMM(time)
PRIMARY KEY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting)
ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage, reporter, domain)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS interface_10s${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `host` LowCardinality(String) CODEC(LZ4),
    `agent` IPv6 CODEC(ZSTD(1)),
    `source` Enum8('sflow' = 0, 'libvirt' = 1, 'ovsdb' = 2) CODEC(ZSTD(1)),
    `if_index` UInt32 CODEC(ZSTD(1)),
    `if_name` LowCardinality(String) CODEC(ZSTD(1)),
    `vm` LowCardinality(String) CODEC(ZSTD(1)),
    `vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `covered_seconds` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_discards` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_errors` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_discards` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_errors` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `if_speed` SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    `half_duplex` SimpleAggregateFunction(max, UInt8) CODEC(LZ4)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, host, agent, source, if_index, if_name, vm, vm_uuid, network)
TTL toDateTime(time) + toIntervalDay(2)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS interface_1m${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `host` LowCardinality(String) CODEC(LZ4),
    `agent` IPv6 CODEC(ZSTD(1)),
    `source` Enum8('sflow' = 0, 'libvirt' = 1, 'ovsdb' = 2) CODEC(ZSTD(1)),
    `if_index` UInt32 CODEC(ZSTD(1)),
    `if_name` LowCardinality(String) CODEC(ZSTD(1)),
    `vm` LowCardinality(String) CODEC(ZSTD(1)),
    `vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `covered_seconds` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_discards` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_errors` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_discards` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_errors` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `if_speed` SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    `half_duplex` SimpleAggregateFunction(max, UInt8) CODEC(LZ4)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, host, agent, source, if_index, if_name, vm, vm_uuid, network)
TTL toDateTime(time) + toIntervalDay(30)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS interface_1h${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `host` LowCardinality(String) CODEC(LZ4),
    `agent` IPv6 CODEC(ZSTD(1)),
    `source` Enum8('sflow' = 0, 'libvirt' = 1, 'ovsdb' = 2) CODEC(ZSTD(1)),
    `if_index` UInt32 CODEC(ZSTD(1)),
    `if_name` LowCardinality(String) CODEC(ZSTD(1)),
    `vm` LowCardinality(String) CODEC(ZSTD(1)),
    `vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `covered_seconds` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_discards` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `in_errors` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_discards` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `out_errors` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `if_speed` SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    `half_duplex` SimpleAggregateFunction(max, UInt8) CODEC(LZ4)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time, host, agent, source, if_index, if_name, vm, vm_uuid, network)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS pair_10s_in${local}${on_cluster}
(
    `time` DateTime('UTC'),
    `src_vm` LowCardinality(String),
    `dst_vm` LowCardinality(String),
    `src_vm_uuid` LowCardinality(UUID),
    `dst_vm_uuid` LowCardinality(UUID),
    `src_host` LowCardinality(String),
    `dst_host` LowCardinality(String),
    `network` LowCardinality(String),
    `sighting` Enum8('unknown' = 0, 'source' = 1, 'destination' = 2, 'both' = 3, 'transit' = 4, 'external' = 5),
    `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6),
    `reporter` IPv6,
    `domain` UInt32,
    `records` Float64,
    `samples` Float64,
    `packets` Float64,
    `packets_variance` Float64,
    `bytes` Float64,
    `bytes_variance` Float64,
    `frame_bytes` Float64,
    `first_packets` Float64,
    `last_packets` Float64,
    `rate_unstated` Float64,
    `first_smear` Float64,
    `last_smear` Float64,
    `first_smear_squares` Float64,
    `last_smear_squares` Float64,
    `sampling_rate_max` UInt32,
    `drop_hint_packets` UInt64,
    `connections_opened` UInt64,
    `connections_accepted` UInt64,
    `connections_reset` UInt64,
    `tcp_flags_missing` UInt64,
    `connection_hashes` Array(UInt64)
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS rollup_groups${local}${on_cluster}
(
    `time` DateTime64(6, 'UTC'),
    `rollup_group` UInt64 CODEC(LZ4),
    `service` String CODEC(LZ4),
    `state` Enum8('open' = 0, 'done' = 1, 'failed' = 2) CODEC(LZ4),
    `flow_rows` UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time)
TTL toDateTime(time) + toIntervalDay(30)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS pair_figure_rows_1m${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `pair` UInt64,
    `src_vm` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_vm` LowCardinality(String) CODEC(ZSTD(1)),
    `src_host` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_host` LowCardinality(String) CODEC(ZSTD(1)),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `bits_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_delay_allowance` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_evidence` LowCardinality(String) CODEC(ZSTD(1)),
    `latency_us` Nullable(Int64) CODEC(T64, ZSTD(1)),
    `latency_spread_us` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `latency_method` LowCardinality(String) CODEC(ZSTD(1)),
    `latency_trip` LowCardinality(String) CODEC(ZSTD(1)),
    `jitter_us` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `latency_missing` LowCardinality(String) CODEC(ZSTD(1)),
    `connections` UInt64 CODEC(T64, ZSTD(1)),
    `connections_evidence` LowCardinality(String) CODEC(ZSTD(1)),
    `new_connections_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `new_connections_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `new_connections_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `failed_connections` Nullable(Float64) CODEC(ZSTD(1)),
    `error_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `error_low` Nullable(Float64) CODEC(ZSTD(1)),
    `error_high` Nullable(Float64) CODEC(ZSTD(1)),
    `resets` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `drops` UInt64 CODEC(T64, ZSTD(1)),
    `drop_hint_packets` UInt64 CODEC(T64, ZSTD(1)),
    `counted_at` LowCardinality(String) CODEC(ZSTD(1)),
    `watched_seconds` Float64 CODEC(ZSTD(1)),
    `restarted` UInt8 CODEC(ZSTD(1)),
    `packets` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_variance` Nullable(Float64) CODEC(ZSTD(1)),
    `bytes` Nullable(Float64) CODEC(ZSTD(1)),
    `bytes_variance` Nullable(Float64) CODEC(ZSTD(1)),
    `frame_bytes` Nullable(Float64) CODEC(ZSTD(1)),
    `sent_packets` Float64 CODEC(ZSTD(1)),
    `sent_packets_variance` Float64 CODEC(ZSTD(1)),
    `received_packets` Float64 CODEC(ZSTD(1)),
    `received_packets_variance` Float64 CODEC(ZSTD(1)),
    `within_packets` Float64 CODEC(ZSTD(1)),
    `elsewhere_packets` Float64 CODEC(ZSTD(1)),
    `packets_per_record` Nullable(Float64) CODEC(ZSTD(1)),
    `samples` Float64 CODEC(ZSTD(1)),
    `sampling_rate` UInt32 CODEC(T64, ZSTD(1)),
    `rate_unstated` Float64 CODEC(ZSTD(1)),
    `src_vm_uuid` LowCardinality(UUID) CODEC(ZSTD(1)),
    `dst_vm_uuid` LowCardinality(UUID) CODEC(ZSTD(1)),
    `src_project` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_project` LowCardinality(String) CODEC(ZSTD(1)),
    `version` UInt64 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, pair)
TTL toDateTime(time) + toIntervalDay(3)
SETTINGS index_granularity = 1024, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS vm_figure_rows_1m${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `vm` LowCardinality(String) CODEC(ZSTD(1)),
    `vm_uuid` LowCardinality(UUID) CODEC(ZSTD(1)),
    `direction` LowCardinality(String) CODEC(ZSTD(1)),
    `host` LowCardinality(String) CODEC(ZSTD(1)),
    `project` LowCardinality(String) CODEC(ZSTD(1)),
    `pairs` UInt64 CODEC(T64, ZSTD(1)),
    `unmeasured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `bits_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `measured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `lossy_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `blind_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `insufficient_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `worst_loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_us` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_high` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_trip` LowCardinality(String) CODEC(ZSTD(1)),
    `timed_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `slow_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `connections` UInt64 CODEC(T64, ZSTD(1)),
    `samples` Float64 CODEC(ZSTD(1)),
    `sampling_rate` UInt32 CODEC(T64, ZSTD(1)),
    `version` UInt64 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, vm, vm_uuid, direction)
TTL toDateTime(time) + toIntervalDay(3)
SETTINGS index_granularity = 1024, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS host_figure_rows_1m${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `src_host` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_host` LowCardinality(String) CODEC(ZSTD(1)),
    `pairs` UInt64 CODEC(T64, ZSTD(1)),
    `unmeasured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `bits_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `measured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `lossy_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `blind_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `insufficient_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `worst_loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_us` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_high` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_trip` LowCardinality(String) CODEC(ZSTD(1)),
    `timed_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `slow_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `connections` UInt64 CODEC(T64, ZSTD(1)),
    `samples` Float64 CODEC(ZSTD(1)),
    `sampling_rate` UInt32 CODEC(T64, ZSTD(1)),
    `version` UInt64 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, src_host, dst_host)
TTL toDateTime(time) + toIntervalDay(3)
SETTINGS index_granularity = 1024, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS cloud_figure_rows_1m${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `pairs` UInt64 CODEC(T64, ZSTD(1)),
    `unmeasured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `bits_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `measured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `lossy_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `blind_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `insufficient_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `worst_loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_us` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_high` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_trip` LowCardinality(String) CODEC(ZSTD(1)),
    `timed_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `slow_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `connections` UInt64 CODEC(T64, ZSTD(1)),
    `samples` Float64 CODEC(ZSTD(1)),
    `sampling_rate` UInt32 CODEC(T64, ZSTD(1)),
    `version` UInt64 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time)
TTL toDateTime(time) + toIntervalDay(3)
SETTINGS index_granularity = 1024, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS figure_windows_1m${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `version` UInt64 CODEC(LZ4),
    `pairs` UInt64 CODEC(T64, ZSTD(1)),
    `records` Float64 CODEC(LZ4),
    `readings` UInt64 CODEC(T64, ZSTD(1)),
    `gaps` UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (time, version)
TTL toDateTime(time) + toIntervalDay(3)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS pair_figure_rows_1h${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `pair` UInt64,
    `src_vm` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_vm` LowCardinality(String) CODEC(ZSTD(1)),
    `src_host` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_host` LowCardinality(String) CODEC(ZSTD(1)),
    `network` LowCardinality(String) CODEC(ZSTD(1)),
    `bits_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_delay_allowance` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_evidence` LowCardinality(String) CODEC(ZSTD(1)),
    `latency_us` Nullable(Int64) CODEC(T64, ZSTD(1)),
    `latency_spread_us` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `latency_method` LowCardinality(String) CODEC(ZSTD(1)),
    `latency_trip` LowCardinality(String) CODEC(ZSTD(1)),
    `jitter_us` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `latency_missing` LowCardinality(String) CODEC(ZSTD(1)),
    `connections` UInt64 CODEC(T64, ZSTD(1)),
    `connections_evidence` LowCardinality(String) CODEC(ZSTD(1)),
    `new_connections_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `new_connections_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `new_connections_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `failed_connections` Nullable(Float64) CODEC(ZSTD(1)),
    `error_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `error_low` Nullable(Float64) CODEC(ZSTD(1)),
    `error_high` Nullable(Float64) CODEC(ZSTD(1)),
    `resets` Nullable(UInt64) CODEC(T64, ZSTD(1)),
    `drops` UInt64 CODEC(T64, ZSTD(1)),
    `drop_hint_packets` UInt64 CODEC(T64, ZSTD(1)),
    `counted_at` LowCardinality(String) CODEC(ZSTD(1)),
    `watched_seconds` Float64 CODEC(ZSTD(1)),
    `restarted` UInt8 CODEC(ZSTD(1)),
    `packets` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_variance` Nullable(Float64) CODEC(ZSTD(1)),
    `bytes` Nullable(Float64) CODEC(ZSTD(1)),
    `bytes_variance` Nullable(Float64) CODEC(ZSTD(1)),
    `frame_bytes` Nullable(Float64) CODEC(ZSTD(1)),
    `sent_packets` Float64 CODEC(ZSTD(1)),
    `sent_packets_variance` Float64 CODEC(ZSTD(1)),
    `received_packets` Float64 CODEC(ZSTD(1)),
    `received_packets_variance` Float64 CODEC(ZSTD(1)),
    `within_packets` Float64 CODEC(ZSTD(1)),
    `elsewhere_packets` Float64 CODEC(ZSTD(1)),
    `packets_per_record` Nullable(Float64) CODEC(ZSTD(1)),
    `samples` Float64 CODEC(ZSTD(1)),
    `sampling_rate` UInt32 CODEC(T64, ZSTD(1)),
    `rate_unstated` Float64 CODEC(ZSTD(1)),
    `src_vm_uuid` LowCardinality(UUID) CODEC(ZSTD(1)),
    `dst_vm_uuid` LowCardinality(UUID) CODEC(ZSTD(1)),
    `src_project` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_project` LowCardinality(String) CODEC(ZSTD(1)),
    `version` UInt64 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time, pair)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 1024, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS vm_figure_rows_1h${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `vm` LowCardinality(String) CODEC(ZSTD(1)),
    `vm_uuid` LowCardinality(UUID) CODEC(ZSTD(1)),
    `direction` LowCardinality(String) CODEC(ZSTD(1)),
    `host` LowCardinality(String) CODEC(ZSTD(1)),
    `project` LowCardinality(String) CODEC(ZSTD(1)),
    `pairs` UInt64 CODEC(T64, ZSTD(1)),
    `unmeasured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `bits_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `measured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `lossy_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `blind_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `insufficient_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `worst_loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_us` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_high` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_trip` LowCardinality(String) CODEC(ZSTD(1)),
    `timed_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `slow_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `connections` UInt64 CODEC(T64, ZSTD(1)),
    `samples` Float64 CODEC(ZSTD(1)),
    `sampling_rate` UInt32 CODEC(T64, ZSTD(1)),
    `version` UInt64 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time, vm, vm_uuid, direction)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 1024, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS host_figure_rows_1h${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `src_host` LowCardinality(String) CODEC(ZSTD(1)),
    `dst_host` LowCardinality(String) CODEC(ZSTD(1)),
    `pairs` UInt64 CODEC(T64, ZSTD(1)),
    `unmeasured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `bits_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `measured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `lossy_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `blind_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `insufficient_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `worst_loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_us` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_high` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_trip` LowCardinality(String) CODEC(ZSTD(1)),
    `timed_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `slow_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `connections` UInt64 CODEC(T64, ZSTD(1)),
    `samples` Float64 CODEC(ZSTD(1)),
    `sampling_rate` UInt32 CODEC(T64, ZSTD(1)),
    `version` UInt64 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time, src_host, dst_host)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 1024, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS cloud_figure_rows_1h${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `pairs` UInt64 CODEC(T64, ZSTD(1)),
    `unmeasured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `bits_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `bits_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_low` Nullable(Float64) CODEC(ZSTD(1)),
    `packets_per_second_high` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_ratio` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `loss_high` Nullable(Float64) CODEC(ZSTD(1)),
    `measured_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `lossy_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `blind_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `insufficient_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `worst_loss_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_us` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_low` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_high` Nullable(Float64) CODEC(ZSTD(1)),
    `latency_trip` LowCardinality(String) CODEC(ZSTD(1)),
    `timed_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `slow_pairs` UInt64 CODEC(T64, ZSTD(1)),
    `connections` UInt64 CODEC(T64, ZSTD(1)),
    `samples` Float64 CODEC(ZSTD(1)),
    `sampling_rate` UInt32 CODEC(T64, ZSTD(1)),
    `version` UInt64 CODEC(LZ4)
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 1024, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS figure_windows_1h${local}${on_cluster}
(
    `time` DateTime('UTC') CODEC(DoubleDelta, LZ4),
    `version` UInt64 CODEC(LZ4),
    `pairs` UInt64 CODEC(T64, ZSTD(1)),
    `records` Float64 CODEC(LZ4),
    `readings` UInt64 CODEC(T64, ZSTD(1)),
    `gaps` UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time, version)
TTL toDateTime(time) + toIntervalDay(400)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS known_peers${local}${on_cluster}
(
    `link` UInt64 CODEC(LZ4),
    `first` SimpleAggregateFunction(min, DateTime('UTC')) CODEC(LZ4),
    `last` SimpleAggregateFunction(max, DateTime('UTC')) CODEC(LZ4)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMM(last)
ORDER BY (link)
TTL toDateTime(last) + toIntervalDay(28)
SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;
