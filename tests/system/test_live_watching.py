"""What vmflow does not see does not count as loss: patch ports, active timeouts, restarts of Open vSwitch and of it.

Judges: what the test does to hypervisors and service, and the wire, which loses nothing.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service, running
from tests.system.test_live import inventory
from tests.system.test_live_windows import CLOSE_SECONDS
from tests.system.testbed import Testbed, until

pytestmark = pytest.mark.system

TIMEOUT = 10
"""The active timeout that deploy/ovs.md recommends."""
SECONDS = 45
STEADY = 521
"""Packets a second of `testbed traffic udp`: 5 Mbit/s in datagrams of 1200 octets."""


@pytest.fixture(scope="module")
def settings(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names by MAC and, for NetFlow v5, by address."""
    file = tmp_path_factory.mktemp("names") / "names.csv"
    vms = json.loads(testbed.run("inventory"))["vms"].values()
    file.write_text("mac,vm,ips\n" + "".join(f"{vm['mac']},{vm['vm']},{vm['ip4']}\n" for vm in vms))
    return [*inventory(testbed), f"inventory.static={json.dumps([{'file': str(file)}])}"]


@pytest.fixture
def service(testbed: Testbed, settings: list[str], tmp_path: Path) -> Iterator[Service]:
    """A fresh store each time: nothing is known of what streams saw before."""
    with running(tmp_path, *settings) as started:
        try:
            yield started
        finally:
            testbed.run("export-off")


def export(testbed: Testbed, service: Service, kind: str, *options: str) -> None:
    target = next(address for address in service.udp if address.startswith("127."))
    testbed.run(f"export-{kind}", target, *options)


def closed(service: Service, ended: float) -> None:
    """Wait until all windows before `ended` have closed."""
    until(lambda: service.metric("vmflow_windows_watermark_seconds") > ended, CLOSE_SECONDS)


def pairs(service: Service, src: str, dst: str, since: float = 0) -> list[dict[str, Any]]:
    return service.query(
        f"SELECT * FROM pair_metrics WHERE src_vm = '{src}' AND dst_vm = '{dst}' AND sent_packets > 100 "
        f"AND time >= fromUnixTimestamp({int(since)}) ORDER BY time"
    )


def alerts(service: Service) -> list[str]:
    rows = service.query("SELECT rule FROM alert_events WHERE event = 'firing' AND rule LIKE '%loss%'")
    return [row["rule"] for row in rows]


def test_what_comes_by_a_patch_port_is_not_counted_as_lost(testbed: Testbed, service: Service, tmp_path: Path) -> None:
    """sFlow of br-int sees what arrives by VXLAN, and of the VLAN only what leaves."""
    export(testbed, service, "sflow", "sampling=8", "polling=2")
    truth = testbed.traffic(tmp_path / "truth.json", "--seconds", "15", "udp", "vlan")
    closed(service, truth["end"])

    assert {row["loss_evidence"] for row in pairs(service, "a3", "b3")} == {"blind"}
    assert "measured" in {row["loss_evidence"] for row in pairs(service, "a2", "b2")}
    assert alerts(service) == []


def test_a_steady_flow_reads_steady_with_an_active_timeout(testbed: Testbed, service: Service, tmp_path: Path) -> None:
    export(testbed, service, "netflow", f"active_timeout={TIMEOUT}")
    truth = testbed.traffic(tmp_path / "truth.json", "--seconds", str(SECONDS), "udp")
    closed(service, truth["end"] + 2 * TIMEOUT)

    rows = [row for row in pairs(service, "a2", "b2") if row["packets_per_second"] is not None]
    whole = [row for row in rows if row["packets_per_second"] > 0.9 * STEADY]
    assert len(whole) >= 2
    assert max(row["packets_per_second"] for row in rows) < 1.05 * STEADY
    for row in whole:
        assert row["packets_per_second_low"] < STEADY < row["packets_per_second_high"]
    assert [row for row in rows if (row["loss_low"] or 0) > 0] == []
    assert service.metric("vmflow_continued_records_total") >= 6
    assert alerts(service) == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [("netflow", [f"active_timeout={TIMEOUT}"]), ("ipfix", ["sampling=1", "cache_active_timeout=2", "output=false"])],
)
def test_a_restart_of_open_vswitch_is_no_loss(
    testbed: Testbed, service: Service, tmp_path: Path, kind: str, options: list[str]
) -> None:
    export(testbed, service, kind, *options)
    testbed.traffic(tmp_path / "before.json", "--seconds", "25", "udp")
    testbed.run("restart", "a")
    restarted = time.time()
    truth = testbed.traffic(tmp_path / "truth.json", "--seconds", "15", "udp")
    closed(service, truth["end"] + 2 * TIMEOUT)

    gaps = service.query(
        "SELECT reason, toUnixTimestamp64Micro(begins) / 1e6 AS begins, toUnixTimestamp64Micro(ends) / 1e6 AS ends "
        "FROM gaps WHERE reporter = '127.0.1.11' AND reason IN ('reopened', 'restarted')"
    )
    assert len(gaps) >= 1
    assert any(gap["begins"] < restarted < gap["ends"] + 1 for gap in gaps)
    assert alerts(service) == []
    reported = service.query(
        "SELECT time, loss_low FROM pair_metrics WHERE src_vm != '' AND dst_vm != '' AND loss_low > 0.02"
    )
    assert reported == []


def test_the_time_without_the_service_is_known(testbed: Testbed, settings: list[str], tmp_path: Path) -> None:
    """kill -9 in the midst of traffic; the exporters keep their target."""
    with running(tmp_path, *settings) as first:
        target = next(address for address in first.udp if address.startswith("127."))
        testbed.run("export-sflow", target, "sampling=1", "polling=2")
        testbed.run("traffic", "--seconds", "3", "ping")
        until(lambda: first.metric("vmflow_decoded_rows_total", table="flows") > 0)
        killed = time.time()
        first.stop(signal.SIGKILL)
    time.sleep(3)
    with running(tmp_path, *settings, f'listen.addresses=["{target}"]') as second:
        began = time.time()
        until(lambda: len(second.query("SELECT 1 FROM gaps WHERE reason = 'away'")) == 1)
        (gap,) = second.query(
            "SELECT toUnixTimestamp64Micro(begins) / 1e6 AS begins, toUnixTimestamp64Micro(ends) / 1e6 AS ends "
            "FROM gaps WHERE reason = 'away'"
        )
        assert killed - 5 < gap["begins"] <= killed + 1
        assert killed < gap["ends"] <= began + 1
    testbed.run("export-off")
