-- Rollups of VM pairs and interfaces, and what feeds them.
ALTER TABLE flows${local}${on_cluster} ADD COLUMN IF NOT EXISTS `rollup_group` UInt64 CODEC(Delta, LZ4);

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
    `records` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `samples` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `octets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `frame_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `rate_unstated` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
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
ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting)
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
    `records` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `samples` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `octets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `frame_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `rate_unstated` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
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
ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting)
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
    `records` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `samples` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `packets_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `octets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `bytes_variance` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `frame_bytes` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `first_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `last_packets` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
    `rate_unstated` SimpleAggregateFunction(sum, Float64) CODEC(LZ4),
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
ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting)
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
    `records` Float64,
    `samples` Float64,
    `packets` Float64,
    `packets_variance` Float64,
    `octets` Float64,
    `bytes_variance` Float64,
    `frame_bytes` Float64,
    `first_packets` Float64,
    `last_packets` Float64,
    `rate_unstated` Float64,
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
