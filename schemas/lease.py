"""Table `vmflow_lease` of a store on a server: which collectors write into the database, and their last heartbeats.

A collector adds a row from time to time, all with the same `claimed`; the engine keeps the newest.  It is read by the
collectors themselves (`collector/store/lease.py`).
"""

from __future__ import annotations

TABLE = "vmflow_lease"

CREATE_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE}${{local}}${{on_cluster}}\n"
    "(\n    `owner` String,\n    `run` String,\n    `host` String,\n    `pid` UInt32,\n"
    "    `began` DateTime64(6, 'UTC'),\n    `claimed` DateTime64(6, 'UTC'),\n    `beat` DateTime64(6, 'UTC'),\n"
    "    `given_up` UInt8\n)\n"
    "ENGINE = ${replicated}ReplacingMergeTree(beat)\nORDER BY (owner, run)\nTTL toDateTime(beat) + toIntervalDay(1)"
)

CREATE_DISTRIBUTED = (
    f"CREATE TABLE IF NOT EXISTS {TABLE}${{on_cluster}} AS {TABLE}${{local}}\n"
    f"ENGINE = Distributed('${{cluster}}', currentDatabase(), {TABLE}${{local}}, cityHash64(owner))"
)

BEAT = (
    f"INSERT INTO {TABLE} (owner, run, host, pid, began, claimed, beat, given_up) "
    "SELECT {owner:String}, {run:String}, {host:String}, {pid:UInt32}, "
    "fromUnixTimestamp64Micro({began:Int64}, 'UTC'), "
    "if({claimed:Int64} = 0, now64(6, 'UTC'), fromUnixTimestamp64Micro({claimed:Int64}, 'UTC')), "
    "now64(6, 'UTC'), {given_up:UInt8}"
)
"""Adds a heartbeat.  Times are the server's: the clocks of collectors may differ.  `claimed` 0 means now."""

SIGNS = (
    "SELECT owner, run, argMax(host, beat), argMax(pid, beat), "
    "toUnixTimestamp64Micro(argMax(began, beat)), toUnixTimestamp64Micro(argMax(claimed, beat)), "
    "dateDiff('second', max(beat), now64(6, 'UTC')) AS age, argMax(given_up, beat) "
    f"FROM {TABLE} GROUP BY owner, run HAVING age < {{stale:UInt32}} ORDER BY age LIMIT 100"
)
"""Selects the last heartbeat of each run that had one lately."""
