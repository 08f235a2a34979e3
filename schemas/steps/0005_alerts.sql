-- Alerts: their state, their changes, messages on their way, silences.
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
    `stale_since` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `measure` LowCardinality(String) CODEC(ZSTD(1)),
    `unit` LowCardinality(String) CODEC(ZSTD(1)),
    `value` Nullable(Float64) CODEC(ZSTD(1)),
    `low` Nullable(Float64) CODEC(ZSTD(1)),
    `high` Nullable(Float64) CODEC(ZSTD(1)),
    `samples` Nullable(Float64) CODEC(ZSTD(1)),
    `evidence` LowCardinality(String) CODEC(ZSTD(1)),
    `threshold` Nullable(Float64) CODEC(ZSTD(1)),
    `condition` Enum8('threshold' = 0, 'absent' = 1, 'trend' = 2, 'baseline' = 3) CODEC(LZ4),
    `level` LowCardinality(String) CODEC(ZSTD(1)),
    `window_start` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `window_end` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    `worst` Nullable(Float64) CODEC(ZSTD(1)),
    `told` DateTime64(6, 'UTC') CODEC(Delta, LZ4),
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
    `event` Enum8('firing' = 0, 'resolved' = 1, 'escalated' = 2, 'acknowledged' = 3, 'stale' = 4, 'measured' = 5, 'inhibited' = 6, 'silenced' = 7, 'told' = 8) CODEC(LZ4),
    `who` String CODEC(ZSTD(1)),
    `measure` LowCardinality(String) CODEC(ZSTD(1)),
    `unit` LowCardinality(String) CODEC(ZSTD(1)),
    `value` Nullable(Float64) CODEC(ZSTD(1)),
    `low` Nullable(Float64) CODEC(ZSTD(1)),
    `high` Nullable(Float64) CODEC(ZSTD(1)),
    `samples` Nullable(Float64) CODEC(ZSTD(1)),
    `evidence` LowCardinality(String) CODEC(ZSTD(1)),
    `threshold` Nullable(Float64) CODEC(ZSTD(1)),
    `condition` Enum8('threshold' = 0, 'absent' = 1, 'trend' = 2, 'baseline' = 3) CODEC(LZ4),
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
