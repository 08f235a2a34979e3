"""End to end with real QEMU guests: libvirt names them, also while a libvirtd hangs or is gone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service import Service, running
from tests.system.guests import TESTBED, restart_if_gone, uri, vm
from tests.system.testbed import HOSTS, until

pytestmark = pytest.mark.system

RATE = 4
DEADLINE_SECONDS = 4


@pytest.fixture(scope="module")
def service(guests: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with libvirt as its only source, and sFlow of both hypervisors."""
    sources = [
        {
            "uri": uri(host), "exporters": addresses, "counters_seconds": 1, "poll_seconds": 2,
            "deadline_seconds": DEADLINE_SECONDS,
        }
        for host, addresses in HOSTS.items()
    ]  # fmt: skip
    with running(tmp_path_factory.mktemp("service"), f"inventory.libvirt={json.dumps(sources)}") as started:
        target = next(address for address in started.udp if address.startswith("127."))
        TESTBED.run("export-sflow", target, f"sampling={RATE}", "polling=1")
        try:
            yield started
        finally:
            TESTBED.run("export-off")


def one(service: Service, sql: str) -> dict[str, Any]:
    (row,) = service.query(sql)
    return row


def source(service: Service, host: str) -> dict[str, Any]:
    """What /health says of a hypervisor's libvirtd."""
    state: dict[str, Any] = json.loads(service.get("/health"))["inventory"][f"libvirt {uri(host)}"]
    return state


def sent_by_guest(service: Service) -> int:
    return int(one(service, "SELECT count() AS n FROM flows WHERE src_vm = 'guest-a' AND sighting = 'source'")["n"])


def test_guests_are_named_and_their_traffic_is_what_they_sent(service: Service) -> None:
    # ifIndex of the taps comes with the first counters of sFlow.
    until(lambda: sent_by_guest(service) > 0)
    sent = "SELECT sum(bytes_estimated) AS octets, sum(samples) AS samples FROM flows"
    of_guest = (
        f"{sent} WHERE src_vm = 'guest-a' AND dst_mac_text = '52:54:00:0a:00:01' AND sighting IN ('source', 'both')"
    )
    before = one(service, of_guest)

    loaded = json.loads(vm("load", "a", "4"))
    time.sleep(5)

    after = one(service, of_guest)
    octets, samples = (int(after[key]) - int(before[key]) for key in ("octets", "samples"))
    error = 3.3 / max(samples, 1) ** 0.5
    # The answers' headers come on top of what a1 read.
    assert loaded["bytes"] * (1 - error) <= octets <= loaded["bytes"] * 1.1 * (1 + error)
    hosts = service.query("SELECT DISTINCT src_vm, src_host FROM flows WHERE src_vm LIKE 'guest-%' ORDER BY src_vm")
    assert [(row["src_vm"], row["src_host"]) for row in hosts] == [("guest-a", "host-a"), ("guest-b", "host-b")]


def test_vnic_counters_of_libvirt_have_the_vm_and_agree_with_sflow(service: Service) -> None:
    """Both count the same tap, from the switch's side."""
    vm("load", "a", "1")
    time.sleep(4)
    rows = service.query(
        "SELECT source, max(in_bytes) AS octets, any(host) AS hypervisor FROM interface_counters "
        "WHERE vm = 'guest-a' GROUP BY source"
    )

    by_source = {row["source"]: row for row in rows}
    assert set(by_source) == {"libvirt", "sflow"}
    assert {row["hypervisor"] for row in rows} == {"host-a"}
    libvirt, sflow = (int(by_source[name]["octets"]) for name in ("libvirt", "sflow"))
    # Polls are up to two seconds apart, and the guest sends a ping a second.
    assert abs(libvirt - sflow) < 2_000


@pytest.mark.parametrize("host", ["a"])
def test_a_libvirtd_that_hangs_stops_nothing(service: Service, host: str) -> None:
    pid = int((TESTBED.state / "pids" / f"libvirtd-{host}").read_text().split()[0])
    until(lambda: source(service, host)["up"])

    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: not source(service, host)["up"])
        before = sent_by_guest(service)
        vm("load", host, "1")
        until(lambda: sent_by_guest(service) > before)
        until(lambda: source(service, host)["age_seconds"] > 2 * DEADLINE_SECONDS)
        assert source(service, host)["interfaces"] == 1
        assert source(service, "b")["up"]
    finally:
        os.kill(pid, signal.SIGCONT)

    restart_if_gone(host, pid)
    until(lambda: source(service, host)["up"] and source(service, host)["age_seconds"] < DEADLINE_SECONDS)
