"""Alerts, live: a wire that gets bad, an interface that is full, a hypervisor that falls silent, and who is notified.

Judges: what the test itself does to wire, traffic and exporters, and the HTTP server that gets the messages.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.notify.support import Endpoint, endpoint
from tests.service import Service, running
from tests.system.test_live import inventory
from tests.system.test_live_windows import CLOSE_SECONDS, WINDOW_SECONDS
from tests.system.testbed import SCRIPTS, Testbed, until

pytestmark = pytest.mark.system

PORT_BITS = 8_000_000
"""What the settings say that the port of b2 can take."""
FULL, MODEST = "8M", "4M"
"""Payload of iperf3's datagrams of 1200 octets; headers come on top: 8M is more than the port can take."""
CHANGES = """
SELECT event, toUnixTimestamp64Micro(time) / 1e6 AS at, toUnixTimestamp64Micro(window_end) / 1e6 AS closed,
    value, low, high, labels
FROM alert_events
WHERE rule = '{rule}' AND event IN ('firing', 'resolved') AND time > fromUnixTimestamp64Micro({since})
ORDER BY time
"""


@pytest.fixture(scope="module")
def people() -> Iterator[Endpoint]:
    """Gets the messages."""
    with endpoint() as made:
        yield made


@pytest.fixture(scope="module")
def service(testbed: Testbed, people: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with names from the hypervisors' databases and a file, and one receiver for all alerts."""
    directory = tmp_path_factory.mktemp("service")
    file = directory / "names.csv"
    vms = json.loads(testbed.run("inventory"))["vms"].values()
    file.write_text("mac,vm\n" + "".join(f"{vm['mac']},{vm['vm']}\n" for vm in vms))
    port = next(vm["port"] for vm in vms if vm["vm"] == "b2")
    quick = [
        {
            "name": "interface_utilisation", "scope": "interface", "measure": "utilisation", "level": "10s",
            "above": 0.9, "clear": 0.8, "clear_seconds": 10, "text": "{interface} on {host} is used at {value}",
        },
        {"name": "exporter_absent", "scope": "exporter", "condition": "absent", "level": "10s", "windows": 3},
    ]  # fmt: skip
    settings = [
        *inventory(testbed),
        f"inventory.static={json.dumps([{'file': str(file)}])}",
        # The stream does not say that nothing is sampled; the operator knows.
        'decode.exporters=[{"network": "127.0.1.0/24", "sampling_rate": 1}]',
        f"store.interface_speeds={json.dumps({f'host-b/{port}': PORT_BITS})}",
        f"alerts.rules={json.dumps(quick)}",
        'alerts.group_by="none"',
        'alerts.routes=[{"receivers": ["people"]}]',
        f"notify.receivers={json.dumps({'people': {'url': f'json://{people.address}/'}})}",
    ]
    with running(directory, *settings) as started:
        try:
            yield started
        finally:
            testbed.run("impair", "off")
            testbed.run("export-off")


def export(testbed: Testbed, service: Service, kind: str, *options: str) -> None:
    """Let both hypervisors export this way, and nothing else; wait until named rows have come."""
    target = next(address for address in service.udp if address.startswith("127."))
    testbed.run("export-off")
    testbed.run(f"export-{kind}", target, *options)
    since = int(time.time() * 1e6)
    testbed.run("traffic", "--seconds", "1", "ping")
    sql = f"SELECT count() AS n FROM flows WHERE src_vm != '' AND time_received > fromUnixTimestamp64Micro({since})"
    until(lambda: int(service.query(sql)[0]["n"]) > 0)


@contextmanager
def traffic(testbed: Testbed, seconds: int, rate: str) -> Iterator[None]:
    """UDP from a2 to b2 over the wire, and from a1 to a2 within one hypervisor, while the block runs."""
    environment = {"TESTBED_NAME": testbed.name, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    address = json.loads(testbed.run("inventory"))["vms"]
    started = []
    for source, target, port, bits in (("a2", "b2", 5401, rate), ("a1", "a2", 5402, "1M")):
        ip = next(vm["ip4"] for vm in address.values() if vm["vm"] == target)
        server = ["exec", target, "iperf3", "-s", "-1", "-p", str(port)]
        client = [
            "exec",
            source,
            "iperf3",
            "-c",
            ip,
            "-p",
            str(port),
            "-u",
            "-b",
            bits,
            "-l",
            "1200",
            "-t",
            str(seconds),
        ]
        for command in (server, client):
            process = subprocess.Popen(
                [str(SCRIPTS / "testbed"), *command],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            started.append(process)
            time.sleep(1)
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(10)


def changes(service: Service, rule: str, since: float) -> list[dict[str, Any]]:
    """What happened to the alerts of a rule, oldest first."""
    return service.query(CHANGES.format(rule=rule, since=int(since * 1e6)))


def messages(people: Endpoint, word: str) -> list[str]:
    """The messages that hold a word."""
    texts = [request.json["message"] + request.json["title"] for request in people.requests]
    return [text for text in texts if word in text]


def test_a_bad_wire_is_reported_within_one_window_and_its_end_too(
    testbed: Testbed, service: Service, people: Endpoint
) -> None:
    export(testbed, service, "ipfix", "sampling=1", "cache_active_timeout=0")
    began = time.time()
    with traffic(testbed, 240, MODEST):
        pair = f"SELECT count() AS n FROM pair_metrics WHERE src_vm = 'a2' AND dst_vm = 'b2' AND time > {began:.0f}"
        until(lambda: int(service.query(pair)[0]["n"]) >= 2, 3 * WINDOW_SECONDS + CLOSE_SECONDS)
        assert changes(service, "pair_loss", began) == []
        testbed.run("impair", "5", "20")
        bad = time.time()
        until(lambda: changes(service, "pair_loss", began) != [], 3 * WINDOW_SECONDS + CLOSE_SECONDS)
        time.sleep(2 * WINDOW_SECONDS)  # for others to fire, too
        testbed.run("impair", "off")
        good = time.time()
        until(lambda: len(changes(service, "pair_loss", began)) >= 2, 60 + 3 * WINDOW_SECONDS + CLOSE_SECONDS)
    fired, ended = changes(service, "pair_loss", began)

    assert (fired["event"], ended["event"]) == ("firing", "resolved")
    for change in (fired, ended):
        assert (change["labels"]["src_vm"], change["labels"]["dst_vm"]) == ("a2", "b2")
    # The first window that was bad from its begin to its end, or the one in which the wire got bad.
    whole = -(-bad // WINDOW_SECONDS) * WINDOW_SECONDS + WINDOW_SECONDS
    assert bad < fired["closed"] <= whole, service.query(
        "SELECT time, loss_ratio, loss_low, loss_high, loss_evidence, packets_per_second FROM pair_metrics "
        f"WHERE (src_vm, dst_vm) = ('a2', 'b2') AND time >= {began:.0f} ORDER BY time"
    )
    assert 0.01 < fired["low"] <= fired["value"] <= fired["high"]
    if fired["closed"] >= whole:
        assert fired["low"] <= 0.05 <= fired["high"]
    assert ended["at"] > good
    (reported,) = messages(people, "pair_loss")[:1]
    low, high = (f"{100 * fired[end]:.2g}" for end in ("low", "high"))
    for word in ("a2", "b2", "host-a", "host-b", low, high):
        assert word in reported, reported


def test_a_full_interface_is_reported(testbed: Testbed, service: Service, people: Endpoint) -> None:
    export(testbed, service, "sflow", "sampling=16", "polling=1")
    began = time.time()
    with traffic(testbed, 120, MODEST):
        time.sleep(3 * WINDOW_SECONDS)
        assert changes(service, "interface_utilisation", began) == []
    with traffic(testbed, 120, FULL):
        until(lambda: changes(service, "interface_utilisation", began) != [], 3 * WINDOW_SECONDS + CLOSE_SECONDS)
    until(lambda: len(changes(service, "interface_utilisation", began)) >= 2, 3 * WINDOW_SECONDS + CLOSE_SECONDS)
    fired, ended = changes(service, "interface_utilisation", began)

    assert (fired["event"], fired["labels"]["vm"], ended["event"]) == ("firing", "b2", "resolved")
    assert fired["value"] > 0.9
    assert messages(people, "interface_utilisation") != []


def test_a_hypervisor_that_stops_to_export_is_reported(testbed: Testbed, service: Service, people: Endpoint) -> None:
    export(testbed, service, "sflow", "sampling=16", "polling=1")
    time.sleep(2 * WINDOW_SECONDS)
    began = time.time()
    testbed.run("export-off")
    target = next(address for address in service.udp if address.startswith("127."))
    testbed.run("export-sflow", target, "sampling=16", "polling=1", "host=a")
    until(lambda: changes(service, "exporter_absent", began) != [], 4 * WINDOW_SECONDS + 2 * CLOSE_SECONDS)
    fired = changes(service, "exporter_absent", began)

    silent = {change["labels"]["exporter"] for change in fired if change["labels"]["protocol"] == "sflow5"}
    assert silent == {"127.0.1.12"}
    until(lambda: any("127.0.1.12" in text for text in messages(people, "exporter_absent")))
    testbed.run("export-sflow", target, "sampling=16", "polling=1", "host=a,b")
    until(lambda: changes(service, "exporter_absent", began)[-1]["event"] == "resolved", 3 * CLOSE_SECONDS)
