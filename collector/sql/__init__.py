"""The SQL endpoint of the embedded store: ClickHouse's HTTP interface, read only."""
