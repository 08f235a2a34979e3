-- Names of VMs in counters and drops; inventory as intervals put together from all sources.
-- The rows of the former inventory (single observations by host-sflow) say nothing that the new one does not learn anew.
ALTER TABLE flows${local}${on_cluster}
    MODIFY COLUMN `src_vm_uuid` LowCardinality(UUID) CODEC(LZ4),
    MODIFY COLUMN `dst_vm_uuid` LowCardinality(UUID) CODEC(LZ4);

ALTER TABLE interface_counters${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `vm` LowCardinality(String) CODEC(ZSTD(1)) AFTER `out_errors_delta`,
    ADD COLUMN IF NOT EXISTS `project` LowCardinality(String) CODEC(ZSTD(1)) AFTER `vm`,
    ADD COLUMN IF NOT EXISTS `host` LowCardinality(String) CODEC(ZSTD(1)) AFTER `project`,
    ADD COLUMN IF NOT EXISTS `network` LowCardinality(String) CODEC(ZSTD(1)) AFTER `host`,
    ADD COLUMN IF NOT EXISTS `vm_uuid` LowCardinality(UUID) CODEC(ZSTD(1)) AFTER `network`,
    ADD COLUMN IF NOT EXISTS `mac` UInt64 CODEC(ZSTD(1)) AFTER `vm_uuid`;

ALTER TABLE drops${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `src_vm` LowCardinality(String) AFTER `linux_reason`,
    ADD COLUMN IF NOT EXISTS `dst_vm` LowCardinality(String) AFTER `src_vm`,
    ADD COLUMN IF NOT EXISTS `src_project` LowCardinality(String) AFTER `dst_vm`,
    ADD COLUMN IF NOT EXISTS `dst_project` LowCardinality(String) AFTER `src_project`,
    ADD COLUMN IF NOT EXISTS `src_host` LowCardinality(String) AFTER `dst_project`,
    ADD COLUMN IF NOT EXISTS `dst_host` LowCardinality(String) AFTER `src_host`,
    ADD COLUMN IF NOT EXISTS `network` LowCardinality(String) AFTER `dst_host`,
    ADD COLUMN IF NOT EXISTS `src_vm_uuid` LowCardinality(UUID) CODEC(LZ4) AFTER `network`,
    ADD COLUMN IF NOT EXISTS `dst_vm_uuid` LowCardinality(UUID) CODEC(LZ4) AFTER `src_vm_uuid`,
    ADD COLUMN IF NOT EXISTS `sighting` Enum8('unknown' = 0, 'source' = 1, 'destination' = 2, 'both' = 3, 'transit' = 4, 'external' = 5) CODEC(LZ4) AFTER `dst_vm_uuid`;

DROP TABLE IF EXISTS inventory${local}${on_cluster} SYNC;

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
