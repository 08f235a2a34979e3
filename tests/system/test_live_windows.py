"""Windows, live: a wire that loses 5 % and delays by 20 ms each way, and what the views say about it.

Judges: the wire's own counters of what it took and dropped, and what iperf3 reports as lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service, running
from tests.system.test_live import inventory
from tests.system.testbed import Testbed, until

pytestmark = pytest.mark.system

LOSS = 0.05
DELAY_US = 20_000
WINDOW_SECONDS = 10
SECONDS = 25
CLOSE_SECONDS = 60
"""A window, its lateness, the silence after it, its sums, and a machine with other work."""
LOSS_SQL = """
SELECT loss_ratio, loss_low, loss_high, loss_evidence, sent_packets, received_packets
FROM pair_metrics
WHERE src_vm = '{src}' AND dst_vm = '{dst}' AND sent_packets > 1000 AND time >= fromUnixTimestamp({since})
    AND time + 10 <= fromUnixTimestamp({until})
ORDER BY time
"""
LATENCY_SQL = """
SELECT trip, min(latency_us) AS least, max(latency_us) AS most, sum(samples) AS readings
FROM latency
WHERE time >= fromUnixTimestamp({since}) AND time + 10 <= fromUnixTimestamp({until}) AND src_host != dst_host
GROUP BY trip
"""


@pytest.fixture(scope="module")
def service(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with unsampled IPFIX of both hypervisors; names from their databases and a file."""
    directory = tmp_path_factory.mktemp("service")
    file = directory / "names.csv"
    vms = json.loads(testbed.run("inventory"))["vms"].values()
    file.write_text("mac,vm\n" + "".join(f"{vm['mac']},{vm['vm']}\n" for vm in vms))
    settings = [
        *inventory(testbed),
        f"inventory.static={json.dumps([{'file': str(file)}])}",
        # The stream does not say that nothing is sampled; the operator knows.
        'decode.exporters=[{"network": "127.0.1.0/24", "sampling_rate": 1}]',
        # Flows of this test begin a few seconds after one another.
        "analyze.flow_quiet_seconds=5",
        "analyze.record_delay_seconds=5",
    ]
    with running(directory, *settings) as started:
        target = next(address for address in started.udp if address.startswith("127."))
        # Each packet is a record: counting says what is lost, and first packets give latency.
        testbed.run("export-ipfix", target, "sampling=1", "cache_active_timeout=0")
        testbed.run("traffic", "--seconds", "1", "ping")
        until(lambda: int(started.query("SELECT count() AS n FROM flows WHERE src_vm != ''")[0]["n"]) > 0)
        try:
            yield started
        finally:
            testbed.run("impair", "off")
            testbed.run("export-off")


def whole_windows(began: float, ended: float) -> dict[str, int]:
    """The windows of 10 s that lie between these times, one second of start left out."""
    return {"since": -(-int(began + 1) // WINDOW_SECONDS) * WINDOW_SECONDS, "until": int(ended)}


def readings(windows: dict[str, int]) -> dict[str, int]:
    """The same, with the window in which the traffic ended: latency needs no whole one."""
    return windows | {"until": windows["until"] + WINDOW_SECONDS}


def load(testbed: Testbed, service: Service, file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Traffic for some windows, and the wait until these are closed.  Returns iperf3's UDP result, and the windows."""
    for _ in range(3):
        began = time.time()
        truth = testbed.traffic(file, "--seconds", str(SECONDS), "http", "udp", "http")
        ended = time.time()
        runs = [run for run in truth["traffic"] if run.get("result", {}).get("udp")]
        if runs:  # iperf3 gives up where the wire loses its first packet
            break
    else:
        raise AssertionError(f"iperf3 never got through: {truth}")
    closed = service.metric("vmflow_windows_watermark_seconds")
    until(lambda: service.metric("vmflow_windows_watermark_seconds") > max(ended + 5, closed), CLOSE_SECONDS)
    return runs[0], whole_windows(began, ended)


def test_loss_and_latency_of_a_bad_wire_and_of_a_good_one(testbed: Testbed, service: Service, tmp_path: Path) -> None:
    testbed.run("impair", str(round(100 * LOSS)), str(DELAY_US // 1000))
    run, windows = load(testbed, service, tmp_path / "bad.json")
    lost = run["result"]["udp"]["lost_percent"] / 100
    rows = service.query(LOSS_SQL.format(src=run["from"], dst=run["to"], **windows))

    assert len(rows) >= 1
    assert 0.02 < lost < 0.08
    for row in rows:
        assert row["loss_evidence"] == "exact", row
        assert row["loss_low"] - 0.01 <= lost <= row["loss_high"] + 0.01, (row, lost)
    # Where traffic begins or ends in a window, its last second leaves the loss open; in a steady one it does not.
    assert any(row["loss_low"] > 0.01 for row in rows), rows
    sent, received = (sum(row[f"{side}_packets"] for row in rows) for side in ("sent", "received"))
    assert 1 - received / sent == pytest.approx(lost, abs=0.01)
    trips = {row["trip"]: row for row in service.query(LATENCY_SQL.format(**readings(windows)))}
    for trip, expected, error in (("one_way", DELAY_US, 3_000), ("round_trip", 2 * DELAY_US, 5_000)):
        assert expected - error <= trips[trip]["least"] <= trips[trip]["most"] <= expected + error, trips
        assert int(trips[trip]["readings"]) > 0

    testbed.run("impair", "off")
    run, windows = load(testbed, service, tmp_path / "good.json")
    rows = service.query(LOSS_SQL.format(src=run["from"], dst=run["to"], **windows))

    # From the first whole window on: sooner than the two windows that are allowed.  A busy machine loses a few packets
    # on the testbed's own wire: iperf3 says how many.
    lost = run["result"]["udp"]["lost_percent"] / 100
    assert lost < 0.01
    assert len(rows) >= 1
    for row in rows:
        assert row["loss_low"] < 0.01, row
        assert row["loss_ratio"] < 0.02, row
    for row in service.query(LATENCY_SQL.format(**readings(windows))):
        assert row["most"] < 5_000, row
