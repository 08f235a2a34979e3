"""The cost of storing figures of closed windows, and what they save those who ask.

    python -m bench.figures [--pairs 85594] [--windows 3] [--store DIRECTORY]

A made-up store in which all pairs of 10,000 VMs on 200 hypervisors are active in every minute, sampled 1 in 64 at both
ends.  Printed are CPU and octets of storing one window's figures, in one part and in several, beside the view's own
time; then questions of a page, asked of the view and of the figures in one run: the ratio counts.  With `--store`, the
store is kept there, and filled only once.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from clickhouse_connect.driver import Client

from bench.load import machine
from collector.analyze.figures import BOUNDS, read_due, store_window
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from schemas.rollups import PAIR_HASH

VMS, HOSTS, NETWORKS = 10_000, 200, 40
RATE = 64
MINUTE_S = 60

_UUID = "reinterpretAsUUID(concat(reinterpretAsFixedString(toUInt64({n} + 1)), reinterpretAsFixedString(toUInt64(7))))"
FILL = f"""
INSERT INTO pair_1m SELECT
    toDateTime({{time:UInt32}}, 'UTC') AS time, {PAIR_HASH.format(src="src", dst="dst")} AS pair,
    format('vm-{{}}', toString(s)) AS src_vm, format('vm-{{}}', toString(d)) AS dst_vm,
    {_UUID.format(n="s")} AS src_vm_uuid, {_UUID.format(n="d")} AS dst_vm_uuid,
    format('host-{{}}', toString(s % {HOSTS})) AS src_host, format('host-{{}}', toString(d % {HOSTS})) AS dst_host,
    format('net-{{}}', toString(s % {NETWORKS})) AS network, {{side:String}} AS sighting, 'sflow5' AS protocol,
    cityHash64(if(sighting = 'source', src_host, dst_host)) AS vantage,
    toIPv6(format('10.0.0.{{}}', toString(if(sighting = 'source', s, d) % {HOSTS}))) AS reporter, 1 AS domain,
    toFloat64(5 + cityHash64(number, time, sighting) % 200) AS records, records AS samples,
    records * {RATE} AS packets, packets * {RATE - 1} AS packets_variance, packets * 700 AS bytes,
    packets_variance * 490000 AS bytes_variance, packets * 714 AS frame_bytes, packets / 60 AS first_packets,
    packets / 60 AS last_packets, 0 AS rate_unstated, 0 AS first_smear, 0 AS last_smear, 0 AS first_smear_squares,
    0 AS last_smear_squares, {RATE} AS sampling_rate_max, 0 AS drop_hint_packets, 0 AS drops,
    {RATE} AS connections_opened, {RATE} AS connections_accepted, 0 AS connections_reset, 0 AS tcp_flags_missing,
    arrayReduce('uniqCombinedState(12)', arrayMap(x -> cityHash64(x, number), range(1 + toUInt32(records) % 5)))
        AS connections
FROM (SELECT number, (number * 7919) % {VMS} AS s, (s + 1 + intDiv(number, {VMS}) * 37 + number % 11) % {VMS} AS d
    FROM numbers({{pairs:UInt64}}))"""
"""One side of one minute."""

QUESTIONS = {
    "list: top 200 pairs of a window": "SELECT src_vm, dst_vm, bits_per_second, bits_per_second_low, loss_low FROM {} "
    "WHERE time = toDateTime({time:UInt32}, 'UTC') ORDER BY bits_per_second DESC LIMIT 200",
    "matrix of hypervisors in a window": "SELECT src_host, dst_host, sum(bytes), max(loss_low), "
    "countIf(loss_evidence = 'blind') FROM {} WHERE time = toDateTime({time:UInt32}, 'UTC') GROUP BY ALL",
    "one pair, all windows of the hour": "SELECT time, bits_per_second, loss_ratio, loss_low FROM {} "
    "WHERE time > toDateTime({time:UInt32}, 'UTC') - 3600 AND pair = {pair:UInt64} ORDER BY time",
}

VOLUMES = {
    "20 busiest pairs": "SELECT src_vm, dst_vm, network, sum(bytes) AS octets FROM {} "
    "WHERE time > toDateTime({time:UInt32}, 'UTC') - 900 GROUP BY ALL ORDER BY octets DESC LIMIT 20",
    "matrix of hypervisors": "SELECT src_host, dst_host, sum(bytes) FROM {} "
    "WHERE time > toDateTime({time:UInt32}, 'UTC') - 900 GROUP BY ALL",
    "one VM": "SELECT time, sum(bytes) FROM {} "
    "WHERE src_vm = 'vm-77' AND time > toDateTime({time:UInt32}, 'UTC') - 900 GROUP BY time ORDER BY time",
}
"""Of 15 minutes.  By hand, from the sums, both ends are counted: the same work."""


def cpu() -> float:
    """Return the CPU seconds of this process, in which the engine is."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def fill(client: Client, pairs: int, windows: int) -> None:
    """Make the last minutes; nothing is added to a store that has some."""
    if client.query("SELECT count() FROM pair_1m").result_rows[0][0]:
        return
    last = int(time.time()) // MINUTE_S * MINUTE_S
    for number in range(windows):
        for side in ("source", "destination"):
            parameters = {"time": last - number * MINUTE_S, "side": side, "pairs": pairs}
            client.command(FILL, parameters=parameters)


def stored(client: Client, parts: int) -> float:
    """Print what storing the last window costs, and return its begin."""
    newest = client.query("SELECT toUnixTimestamp(max(time)) FROM pair_1m").result_rows[0][0]
    begun = cpu()
    span = {"begin": newest - 3600, "end": newest + MINUTE_S}
    found = read_due(client, "1m", span)
    looked = cpu() - begun
    for window in found:
        begun, clock = cpu(), time.monotonic()
        store_window(client, "1m", window, time.time_ns() // 1000, parts)
        print(
            f"figures of a window in {parts} part(s): {cpu() - begun:.2f} CPU s, {time.monotonic() - clock:.2f} s by "
            f"the clock, {window.sums} sums; looking what is due {looked:.2f} CPU s",
            flush=True,
        )
    return float(newest)


def asked(client: Client, newest: float) -> None:
    """Ask the view and the figures the same, and print CPU seconds and their ratio."""
    (pair,) = client.query("SELECT pair FROM pair_1m LIMIT 1").result_rows[0]

    def took(sql: str, view: str) -> float:
        begun = cpu()
        client.query(
            sql.replace("{}", view), parameters={"time": int(newest), "pair": pair}, settings=BOUNDS.settings()
        )
        return cpu() - begun

    for name, sql in QUESTIONS.items():
        view, figures = (took(sql, of) for of in ("pair_metrics_1m", "pair_figures_1m"))
        print(f"{name}: view {view:.2f}, figures {figures:.3f} CPU s: 1 / {view / figures:.0f}", flush=True)
    for name, sql in VOLUMES.items():
        # The second time: the first one reads from the disk.
        hand, light, whole = (
            min(took(sql, of) for _ in range(3)) for of in ("pair_1m", "pair_traffic_1m", "pair_metrics_1m")
        )
        print(
            f"{name}: sums {hand:.2f}, pair_traffic {light:.2f} ({light / hand:.1f} ×), "
            f"pair_metrics {whole:.2f} CPU s ({whole / hand:.1f} ×)",
            flush=True,
        )


def main() -> None:
    """Print the machine and all figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.figures", description=__doc__)
    parser.add_argument("--pairs", type=int, default=85_594)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--store", type=Path)
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        settings = StoreSettings(url=f"chdb://{args.store or Path(scratch) / 'store'}")
        client = open_client(settings)
        set_up(client, settings)
        fill(client, args.pairs, args.windows)
        newest = stored(client, args.parts)
        rows, octets = client.query(
            "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND database = currentDatabase() AND table = 'pair_figure_rows_1m'"
        ).result_rows[0]
        print(f"{rows} rows of figures, {octets / max(rows, 1):.0f} octets a row", flush=True)
        asked(client, newest)
        client.close()


if __name__ == "__main__":
    main()
