-- Latency of VM pairs; age of templates in exporters.
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

ALTER TABLE exporters${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `template_age_us` Nullable(UInt64) CODEC(T64, ZSTD(1)) AFTER `templates`;
