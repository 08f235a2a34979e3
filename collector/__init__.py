"""The process: from UDP sockets to rows, windows and alerts.  `app` joins the rooms.

In the order of the data:

    listen      octets in: UDP sockets, TCP and TLS
    decode      datagrams to columns on worker threads; what exporters sent and what of it was lost
    inventory   which VM is at each end; its sources are in `inventory.sources`
    store       rows to ClickHouse; a spool for when it does not answer
    rollup      sums per window of 10 s and VM pair
    analyze     windows that close; latency per window; the exporter doctor
    alert       rules over closed windows, and the state of alerts; conditions are in `alert.conditions`
    notify      alerts to people and to programs

Beside it:

    probe       results of agents: checked, taken once, to the store
    http        the HTTP server: which requests may come in
    sql         the SQL endpoint of the embedded store
    web         /metrics, /health and the API
    capture     captures: read, replayed; frames of an interface
    process     what this process may reach, and how it starts
    commands    one file per command
"""
