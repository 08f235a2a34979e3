-- Over a hundred files for each insert of flows cost more than one file of all columns; parts of a few GB are large enough.
ALTER TABLE flows${local}${on_cluster} MODIFY SETTING min_rows_for_wide_part = 4194304, max_bytes_to_merge_at_max_space_in_pool = 8589934592;
