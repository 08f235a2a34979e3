-- Several export protocols may tell of the same packets: sums are kept apart by protocol.
ALTER TABLE pair_10s${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4) AFTER `sighting`,
    ADD COLUMN IF NOT EXISTS `vantage` UInt64 CODEC(LZ4) AFTER `protocol`,
    MODIFY ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage);
ALTER TABLE pair_1m${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4) AFTER `sighting`,
    ADD COLUMN IF NOT EXISTS `vantage` UInt64 CODEC(LZ4) AFTER `protocol`,
    MODIFY ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage);
ALTER TABLE pair_1h${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) CODEC(LZ4) AFTER `sighting`,
    ADD COLUMN IF NOT EXISTS `vantage` UInt64 CODEC(LZ4) AFTER `protocol`,
    MODIFY ORDER BY (time, pair, src_vm, dst_vm, src_vm_uuid, dst_vm_uuid, src_host, dst_host, network, sighting, protocol, vantage);
ALTER TABLE pair_10s_in${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `protocol` Enum8('unknown' = 0, 'sflow5' = 1, 'netflow1' = 2, 'netflow5' = 3, 'netflow7' = 4, 'netflow9' = 5, 'ipfix' = 6) AFTER `sighting`;
