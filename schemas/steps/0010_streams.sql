-- What one stream sees says nothing of another: sums are kept apart by stream, and say how far records smear.
ALTER TABLE pair_10s${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `reporter` IPv6 CODEC(LZ4) AFTER `vantage`,
    ADD COLUMN IF NOT EXISTS `domain` UInt32 CODEC(LZ4) AFTER `reporter`,
    ADD COLUMN IF NOT EXISTS `first_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `rate_unstated`,
    ADD COLUMN IF NOT EXISTS `last_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `first_smear`,
    ADD COLUMN IF NOT EXISTS `first_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `last_smear`,
    ADD COLUMN IF NOT EXISTS `last_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `first_smear_squares`,
    MODIFY ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage, reporter, domain);
ALTER TABLE pair_1m${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `reporter` IPv6 CODEC(LZ4) AFTER `vantage`,
    ADD COLUMN IF NOT EXISTS `domain` UInt32 CODEC(LZ4) AFTER `reporter`,
    ADD COLUMN IF NOT EXISTS `first_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `rate_unstated`,
    ADD COLUMN IF NOT EXISTS `last_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `first_smear`,
    ADD COLUMN IF NOT EXISTS `first_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `last_smear`,
    ADD COLUMN IF NOT EXISTS `last_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `first_smear_squares`,
    MODIFY ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage, reporter, domain);
ALTER TABLE pair_1h${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `reporter` IPv6 CODEC(LZ4) AFTER `vantage`,
    ADD COLUMN IF NOT EXISTS `domain` UInt32 CODEC(LZ4) AFTER `reporter`,
    ADD COLUMN IF NOT EXISTS `first_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `rate_unstated`,
    ADD COLUMN IF NOT EXISTS `last_smear` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `first_smear`,
    ADD COLUMN IF NOT EXISTS `first_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `last_smear`,
    ADD COLUMN IF NOT EXISTS `last_smear_squares` SimpleAggregateFunction(sum, Float64) CODEC(LZ4) AFTER `first_smear_squares`,
    MODIFY ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage, reporter, domain);
ALTER TABLE pair_10s_in${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `reporter` IPv6 AFTER `protocol`,
    ADD COLUMN IF NOT EXISTS `domain` UInt32 AFTER `reporter`,
    ADD COLUMN IF NOT EXISTS `first_smear` Float64 AFTER `rate_unstated`,
    ADD COLUMN IF NOT EXISTS `last_smear` Float64 AFTER `first_smear`,
    ADD COLUMN IF NOT EXISTS `first_smear_squares` Float64 AFTER `last_smear`,
    ADD COLUMN IF NOT EXISTS `last_smear_squares` Float64 AFTER `first_smear_squares`;
-- When streams, or the service, did not tell of all packets.
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
