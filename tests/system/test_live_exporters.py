"""Exporters that are changed while they run: by `set`, to another protocol, for good; and what the doctor says of them.

Judges: what the test types into the hypervisors' Open vSwitch, and a ping that goes on meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from collector.analyze.doctor import CHECKS
from tests.deploy.ovs_blocks import read_blocks
from tests.service import ROOT, Service, running
from tests.system.test_live import inventory
from tests.system.testbed import Testbed, until

pytestmark = pytest.mark.system

RULES = [
    {"name": "exporter_absent", "scope": "exporter", "condition": "absent", "level": "10s", "windows": 3},
    {
        "name": "exporter_replaced", "scope": "exporter", "condition": "absent", "level": "10s", "windows": 2,
        "replaced": True, "severity": "info", "text": "{exporter} sends {evidence} instead of {protocol}",
    },
]  # fmt: skip


def interfaces(testbed: Testbed) -> list[dict[str, str]]:
    return list(json.loads(testbed.run("inventory"))["vms"].values())


UNSAMPLED = 'decode.exporters=[{"network": "127.0.1.0/24", "protocol": "ipfix", "sampling_rate": 1}]'
"""As deploy/ovs.md says for unsampled IPFIX; what comes by sFlow keeps its own rate."""


def names_of(testbed: Testbed, directory: Path) -> Path:
    file = directory / "names.csv"
    file.write_text("mac,vm\n" + "".join(f"{vm['mac']},{vm['vm']}\n" for vm in interfaces(testbed)))
    return file


@pytest.fixture(scope="module")
def service(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("service")
    with started(testbed, directory, names_of(testbed, directory), UNSAMPLED, *inventory(testbed)) as service:
        yield service


@pytest.fixture
def without_rate(testbed: Testbed, tmp_path: Path) -> Iterator[Service]:
    """A service that does not know that the IPFIX is unsampled."""
    with started(testbed, tmp_path, names_of(testbed, tmp_path), *inventory(testbed)) as service:
        yield service


@pytest.fixture
def by_agent(testbed: Testbed, tmp_path: Path) -> Iterator[Service]:
    """A service that knows the hypervisors by their agent addresses alone.

    The database of Open vSwitch holds the agent address that is set: with it as a source none is unknown.
    """
    file = tmp_path / "names.toml"
    keys = {"mac": "mac", "vm": "vm", "host": "host", "port_name": "port"}
    blocks = [
        "\n".join(["[[interface]]", *(f'{key} = "{vm[there]}"' for key, there in keys.items())])
        for vm in interfaces(testbed)
    ]
    blocks += [f'[[host]]\nname = "host-{host}"\naddresses = ["192.0.2.1{n}"]' for n, host in enumerate("ab", 1)]
    file.write_text("\n\n".join(blocks))
    with started(testbed, tmp_path, file, UNSAMPLED) as service:
        yield service


@contextmanager
def started(testbed: Testbed, directory: Path, file: Path, *settings: str) -> Iterator[Service]:
    """The service with names from a file, and with these settings."""
    names = f"inventory.static={json.dumps([{'file': str(file)}])}"
    rules = f"alerts.rules={json.dumps(RULES)}"
    with running(directory, *settings, names, rules, "analyze.doctor_seconds=10") as service:
        try:
            yield service
        finally:
            testbed.run("export-off")


@contextmanager
def ping(testbed: Testbed, from_: str = "a1", to: str = "b1") -> Iterator[None]:
    """Ten packets a second from one VM to another while the block runs."""
    target = next(vm["ip4"] for vm in json.loads(testbed.run("inventory"))["vms"].values() if vm["vm"] == to)
    command = ["ip", "netns", "exec", f"{testbed.name}-{from_}", "ping", "-q", "-i", "0.1", target]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def vsctl(testbed: Testbed, host: str, lines: str) -> str:
    """Type lines into a hypervisor's shell."""
    environment = os.environ | {"OVS_RUNDIR": str(testbed.state / host)}
    done = subprocess.run(
        ["bash", "-euc", lines], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def target_of(service: Service) -> str:
    return next(address for address in service.udp if address.startswith("127."))


def reports(service: Service, since: float, condition: str) -> int:
    """Rows of `exporters` about hypervisor a since a time."""
    sql = "SELECT count() AS n FROM exporters WHERE exporter = toIPv6('127.0.1.11') "
    return int(service.query(f"{sql} AND time > fromUnixTimestamp64Micro({int(since * 1e6)}) AND {condition}")[0]["n"])


def findings(service: Service, exporter: str = "127.0.1.11") -> set[str]:
    """Codes that the doctor of the service has found in streams of a hypervisor, a if not said."""
    sql = "SELECT arrayJoin(splitByChar(',', argMax(findings, time))) AS code FROM exporters "
    where = f"WHERE exporter = toIPv6('{exporter}') AND time > now64(6) - INTERVAL 25 SECOND GROUP BY protocol, domain"
    return {row["code"] for row in service.query(sql + where)} - {""}


def reported(service: Service, rule: str, since: float = 0) -> list[tuple[str, str]]:
    """Event and protocol of all changes of a rule's alerts about hypervisor a, since a time."""
    sql = f"SELECT event, labels['protocol'] AS protocol FROM alert_events WHERE rule = '{rule}' "
    sql += f"AND time > fromUnixTimestamp64Micro({int(since * 1e6)}) "
    where = "AND labels['exporter'] = '127.0.1.11' AND event IN ('firing', 'resolved') ORDER BY time"
    return [(row["event"], row["protocol"]) for row in service.query(sql + where)]


def test_set_opens_a_port_whose_data_is_read_at_once(testbed: Testbed, service: Service) -> None:
    testbed.run("export-ipfix", target_of(service), "sampling=1", "cache_active_timeout=2", "output=false", "host=a")
    with ping(testbed):
        until(lambda: reports(service, 0, "records > 0 AND protocol = 'ipfix'") > 0)
        changed = time.time()
        vsctl(testbed, "a", 'ovs-vsctl set IPFIX "$(ovs-vsctl --bare get Bridge br-int ipfix)" cache_active_timeout=3')
        until(lambda: reports(service, changed + 10, "records > 5 AND protocol = 'ipfix'") >= 2)

    assert reports(service, changed + 10, "held_bytes > 0") == 0
    assert reports(service, changed, "problems['no_template'] > 0") == 0
    assert json.loads(service.get("/health"))["held"] == "ok"


def test_the_line_of_the_doctor_brings_the_counters_back(testbed: Testbed, service: Service) -> None:
    """And the change from IPFIX to sFlow is reported as that: no exporter is missed."""
    with ping(testbed):
        began = time.time()
        testbed.run("export-ipfix", target_of(service), "sampling=1", "cache_active_timeout=2", "host=a")
        until(lambda: reports(service, began, "records > 0 AND protocol = 'ipfix'") >= 4)
        testbed.run("export-off")
        testbed.run("export-sflow", target_of(service), "sampling=1", "polling=0", "host=a")
        until(lambda: "counters_missing" in findings(service), 150)
        until(lambda: reported(service, "exporter_replaced") != [])
        vsctl(testbed, "a", "ovs-vsctl set sFlow br-int polling=10")
        began = time.time()
        until(lambda: reports(service, began, "counter_records > 0") > 0, 60)
        until(lambda: "counters_missing" not in findings(service), 90)

    assert reported(service, "exporter_replaced")[0] == ("firing", "ipfix")
    assert reported(service, "exporter_absent") == []


def test_an_exporter_that_was_taken_away_is_retired_once(testbed: Testbed, service: Service) -> None:
    """Before other tests pause the same stream for minutes: then its absence is no news for as long."""
    began = time.time()
    testbed.run("export-off")
    testbed.run("export-sflow", target_of(service), "sampling=1", "polling=1", "host=a")
    until(lambda: reports(service, began, "counter_records > 0 AND protocol = 'sflow5'") >= 4)
    testbed.run("export-off")
    until(lambda: ("firing", "sflow5") in reported(service, "exporter_absent", began), 150)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VMFLOW_")}
    arguments = ["exporters", "retire", "127.0.1.11", "--url", str(service.ready["web"]), "--who", "ann"]
    done = subprocess.run(
        [sys.executable, "-m", "collector", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "127.0.1.11 sflow5, domain 0" in done.stdout
    time.sleep(50)
    assert reported(service, "exporter_absent", began) == [("firing", "sflow5"), ("resolved", "sflow5")]


def repair(testbed: Testbed, host: str, code: str) -> None:
    """Type the lines of a finding, with this testbed's own uplink bridge and collector in place of the page's."""
    (lines,) = ("\n".join(check.repair) for check in CHECKS if check.code == code)
    known = re.findall(r'"([0-9.]+:[0-9]+)"', vsctl(testbed, host, "ovs-vsctl list IPFIX; ovs-vsctl list sFlow"))
    vsctl(testbed, host, lines.replace("br-ex", "br-phy").replace("192.0.2.1:4739", known[0]))


SFLOW, IPFIX = ("export-sflow", "sampling=1", "polling=1"), ("export-ipfix", "sampling=1", "cache_active_timeout=2")


def ends(testbed: Testbed, service: Service, code: str, export: tuple[str, ...], host: str, *pairs: str) -> None:
    """Export in a way that makes a finding, type its lines, see it end; pairs of VMs as "a1-b1" ping meanwhile."""
    name, *options = export
    exporter = {"a": "127.0.1.11", "b": "127.0.1.12"}[host]
    with ExitStack() as pings:
        for pair in pairs:
            pings.enter_context(ping(testbed, *pair.split("-")))
        testbed.run(name, target_of(service), *options)
        until(lambda: code in findings(service, exporter), 150)
        repair(testbed, host, code)
        until(lambda: code not in findings(service, exporter), 240)
        time.sleep(30)
        assert code not in findings(service, exporter)
    testbed.run("export-off")


def test_the_lines_for_two_bridges_end_it(testbed: Testbed, service: Service) -> None:
    """With VXLAN alone: what passes the uplink bridge is of no VM's port there."""
    ends(testbed, service, "two_bridges", (*SFLOW, "bridges=br-int,br-phy", "host=a"), "a", "a1-b1")


def test_the_lines_for_unseen_arrivals_end_it(testbed: Testbed, service: Service) -> None:
    """The VLAN of a3 and b3 comes by a patch port from the uplink bridge."""
    ends(testbed, service, "arrivals_unseen", (*SFLOW, "host=a,b"), "b", "a1-b1", "a3-b3")


def test_the_lines_for_double_sampling_end_it(testbed: Testbed, without_rate: Service) -> None:
    ends(testbed, without_rate, "sampled_twice", (*IPFIX, "host=a"), "a", "a1-b1", "a3-b3")


def test_the_line_for_an_unknown_agent_ends_it(testbed: Testbed, by_agent: Service) -> None:
    ends(testbed, by_agent, "agent_unknown", (*SFLOW, "agent=203.0.113.9", "host=a"), "a", "a1-b1", "a3-b3")


def test_the_recipe_for_loss_gives_named_pairs_with_exact_loss(testbed: Testbed, service: Service) -> None:
    """Both hosts as the page says, but for the port of the collector; a ping goes both ways and loses nothing."""
    testbed.run("export-ipfix", target_of(service), "host=a,b")
    for host in ("a", "b"):
        (there,) = set(re.findall(r"192.0.2.1:[0-9]+", vsctl(testbed, host, "ovs-vsctl list IPFIX")))
        vsctl(testbed, host, read_blocks()["ipfix-loss"].lines.replace("192.0.2.1:4739", there))
    began = int(time.time())
    measured = (
        "SELECT count() AS n FROM pair_metrics WHERE loss_ratio IS NOT NULL AND "
        f"(src_vm, dst_vm) = ('{{}}', '{{}}') AND time > {began}"
    )
    with ping(testbed):
        for pair in (("a1", "b1"), ("b1", "a1")):
            until(lambda pair=pair: int(service.query(measured.format(*pair))[0]["n"]) >= 3, 150)  # type: ignore[misc]

    pairs = service.query(
        "SELECT src_vm, dst_vm, max(loss_low) AS low, groupUniqArray(toString(loss_evidence)) AS evidence "
        f"FROM pair_metrics WHERE loss_ratio IS NOT NULL AND time > {began} AND src_host != dst_host "
        "AND (src_vm, dst_vm) IN (('a1', 'b1'), ('b1', 'a1')) GROUP BY src_vm, dst_vm ORDER BY src_vm"
    )
    assert [(row["src_vm"], row["dst_vm"]) for row in pairs] == [("a1", "b1"), ("b1", "a1")]
    for row in pairs:
        assert row["low"] == 0, row
    assert "rate_unknown" not in findings(service)
