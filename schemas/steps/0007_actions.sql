-- What a person said of an alert; runs of actions.
ALTER TABLE alert_events${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `comment` String CODEC(ZSTD(1)) AFTER `who`;

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
