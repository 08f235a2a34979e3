-- Round trip times that TCP of a host states (sFlow 2209).
ALTER TABLE flows${local}${on_cluster}
    ADD COLUMN IF NOT EXISTS `tcp_rtt_us` UInt32 CODEC(T64, LZ4) AFTER `tcp_seq`,
    ADD COLUMN IF NOT EXISTS `tcp_rtt_deviation_us` UInt32 CODEC(T64, LZ4) AFTER `tcp_rtt_us`,
    ADD COLUMN IF NOT EXISTS `tcp_rtt_min_us` UInt32 CODEC(T64, LZ4) AFTER `tcp_rtt_deviation_us`;
