"""Two tenants with the same addresses, exported as NetFlow v5, which shows neither MAC nor network: kept apart live."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import running
from tests.system.testbed import HOSTS, Testbed, missing, until

pytestmark = pytest.mark.system

NOT_IN_V5 = 10
"""Packets that NetFlow v5 cannot tell of: ARP."""


@pytest.fixture(scope="module")
def overlap() -> Iterator[Testbed]:
    """The testbed with VMs a1 and a3, and b1 and b3, of one address each: one pair on a VNI, one on a VLAN."""
    if reason := missing():
        pytest.skip(reason)
    made = Testbed("overlap", TESTBED_OVERLAP="1", TESTBED_VNET4="10.20.0", TESTBED_VNET6="2001:db8:20")
    try:
        made.run("up")
        yield made
    finally:
        made.run("down")


def test_tenants_with_equal_addresses_are_kept_apart(overlap: Testbed, tmp_path: Path) -> None:
    vms = json.loads(overlap.run("inventory"))["vms"].values()
    addresses = {vm["vm"]: vm["ip4"] for vm in vms}
    assert (addresses["a1"], addresses["b1"]) == (addresses["a3"], addresses["b3"])
    names = tmp_path / "vms.csv"
    names.write_text("mac,vm,ips\n" + "".join(f"{vm['mac']},{vm['vm']},{vm['ip4']}\n" for vm in vms))
    ports = [{"remote": overlap.ovsdb(host), "exporters": known} for host, known in HOSTS.items()]
    settings = [
        f"inventory.ovsdb={json.dumps(ports)}",
        f"inventory.static={json.dumps([{'file': str(names)}])}",
    ]
    with running(tmp_path, *settings) as service:
        target = next(address for address in service.udp if address.startswith("127."))
        overlap.run("export-netflow", target, "active_timeout=1")

        truth = overlap.traffic(tmp_path / "truth.json", "--seconds", "2", "tcp", "vlan")

        sent = "SELECT count() AS n FROM flows WHERE src_vm = 'a3' AND dst_vm = 'b3' AND sighting = 'source'"
        until(lambda: int(service.query(sent)[0]["n"]) > 0)
        # Flows that have ended are exported when they are idle.
        until(lambda: _packets(service.query(TOTALS))["a3"] > 0.9 * _true(truth)["a3"])
        pairs = service.query(
            "SELECT DISTINCT src_vm, dst_vm FROM flows WHERE src_vm != '' AND dst_vm != '' ORDER BY ALL"
        )
        packets = _packets(service.query(TOTALS))
        overlap.run("export-off")

    assert {(row["src_vm"][1], row["dst_vm"][1]) for row in pairs} <= {
        ("1", "1"),
        ("3", "3"),
        ("2", "1"),
        ("1", "2"),
        ("2", "2"),
    }
    for vm in ("a1", "a3"):
        # Twice would be far more than the few packets of the quiet time before.
        assert packets[vm] <= _true(truth)[vm] + NOT_IN_V5, vm
    assert packets["a1"] > 0.9 * _true(truth)["a1"] - NOT_IN_V5


TOTALS = "SELECT src_vm, sum(packets) AS packets FROM flows WHERE sighting IN ('source', 'both') GROUP BY src_vm"


def _packets(rows: list[dict[str, str]]) -> Counter[str]:
    return Counter({row["src_vm"]: int(row["packets"]) for row in rows})


def _true(truth: dict[str, dict[str, dict[str, dict[str, int]]]]) -> dict[str, int]:
    """Packets that each VM's interface sent."""
    return {str(vm["vm"]): vm["tx"]["packets"] for vm in truth["nic_counters"].values()}
