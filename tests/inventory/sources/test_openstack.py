"""The OpenStack source against a cloud on loopback, through the real openstacksdk.

Neutron's answers are recorded from a real one; those of Nova and Keystone are written by hand after the API reference
(`openstack_answers/README.md`).  `tests/system/test_openstack_neutron.py` asks a real Neutron.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from collector.inventory.settings import OpenstackSettings
from collector.inventory.sources.base import Host, Interface, PortKind, SourceError
from collector.inventory.sources.openstack import Openstack
from schemas.inventory import Rank
from tests.inventory.sources.openstack_answers.cloud import PASSWORD, Cloud

pytest.importorskip("openstack", reason="needs openstacksdk: pip install 'vmflow[openstack]'")
# The SDK warns of its own code whenever a cloud is read from a file.
pytestmark = pytest.mark.filterwarnings("ignore:Support for InfluxDB:PendingDeprecationWarning")

PORTS, NETWORKS = "/network/v2.0/ports", "/network/v2.0/networks"
SERVERS, HYPERVISORS = "/compute/v2.1/servers/detail", "/compute/v2.1/os-hypervisors/detail"
PROJECTS, OWN_PROJECTS = "/identity/v3/projects", "/identity/v3/auth/projects"
TOKENS = "/identity/v3/auth/tokens"

WEB, WEB2, DB = (
    "5f3c2a10-8f6e-4d0b-9a57-0d6c1f4e2b31",
    "c7a1d9e4-3b52-4f88-8e0d-61b2a90f7d43",
    "e90b4f6d-2c17-4a3e-b5d8-7f1c08a6d254",
)
SHOP, SHOP2 = "0c1f5e9a7d2b4c6e8f0a1b2c3d4e5f60", "9b8a7c6d5e4f40312213243546576879"
WEB2_PORT = "98649414-cf31-4cd3-a450-b47479eb020a"
DB_PORT = "dd8811ee-c358-4247-8ea0-88ff714259da"


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A cloud where all is well."""
    with Cloud() as running:
        yield running


@pytest.fixture
def source(cloud: Cloud, tmp_path: Path) -> Iterator[Openstack]:
    """A source that lists everything once, with its first answer."""
    opened = make_source(cloud, tmp_path)
    yield opened
    opened.close()


def make_source(cloud: Cloud, folder: Path, **more: Any) -> Openstack:
    """A source for the cloud."""
    file = cloud.write_clouds(folder / "clouds.yaml")
    return Openstack(OpenstackSettings(cloud="lab", config_file=file, **{"full_seconds": 86_400.0} | more))


def by_id(source: Openstack) -> dict[str, Interface]:
    """What the source says now, by port id."""
    return {interface.port_id: interface for interface in source.read().interfaces}


def item(cloud: Cloud, kind: str, key: str) -> dict[str, Any]:
    """One object of the cloud."""
    return next(found for found in cloud.objects[kind] if found["id"] == key)


def change(port: dict[str, Any], **fields: Any) -> None:
    """Change a port, as Neutron does."""
    port.update(fields, revision_number=port["revision_number"] + 1)


def test_whole_answer(source: Openstack) -> None:
    """All that an administrator sees, with names that occur twice made distinct."""
    report = source.read()
    assert (source.name, source.rank) == ("openstack lab", Rank.OPENSTACK)
    assert report.hosts == (
        Host(name="hv1", addresses=(ip_address("192.0.2.11"),)),
        Host(name="hv2", addresses=(ip_address("2001:db8::12"),)),
    )
    assert len(report.interfaces) == 4, "the router's port is none of a VM"
    found = {interface.port_id: interface for interface in report.interfaces}
    assert found["63a51320-8f1e-4417-b9f3-3551db789501"] == Interface(
        host="hv1",
        port_name="tap63a51320-8f",
        kind=PortKind.VM,
        mac=0xFA163E56669F,
        vm="web",
        vm_uuid=UUID(WEB),
        project="shop (0c1f5e9a)",
        network="private (1454f840)",
        vni=1590,
        ips=(ip_address("10.0.0.122"), ip_address("10.0.0.200")),
        port_id="63a51320-8f1e-4417-b9f3-3551db789501",
    )
    assert found["1ecc0b41-15d0-4477-9002-81c4afbbf4cc"] == Interface(
        host="hv1",
        port_name="tap1ecc0b41-15",
        kind=PortKind.VM,
        mac=0xFA163E5DA2EA,
        vm="web",
        vm_uuid=UUID(WEB),
        project="shop (0c1f5e9a)",
        network="wire",
        vlan=123,
        ips=(ip_address("10.0.2.15"),),
        port_id="1ecc0b41-15d0-4477-9002-81c4afbbf4cc",
    )
    web2, db = found[WEB2_PORT], found[DB_PORT]
    assert (web2.vm, web2.vm_uuid, web2.host, web2.port_name) == ("web", UUID(WEB2), "hv2", "qvo98649414-cf")
    assert (web2.project, web2.network, web2.vni) == ("shop (9b8a7c6d)", "private (2fbabc2a)", 1336)
    assert (db.vm, db.vm_uuid, db.host) == ("db", UUID(DB), "hv1"), "no owner, but its device is a server"


def test_nothing_changed(cloud: Cloud, source: Openstack) -> None:
    """The same object; one short request per listing, none of projects and hypervisors."""
    first = source.read()
    cloud.asked.clear()
    cloud.queries.clear()
    assert source.read() is first
    assert cloud.asked == {PORTS: 1, NETWORKS: 1, SERVERS: 1}
    queries = dict(cloud.queries)
    assert queries[PORTS]["fields"] == queries[NETWORKS]["fields"] == ["id", "revision_number"]
    assert queries[SERVERS]["changes-since"] == ["2026-11-25T15:58:30Z"], "two minutes before the newest change"


def test_changed_ports(cloud: Cloud, source: Openstack) -> None:
    """Only what changed is asked for: a new one, one that moved, one that is gone."""
    assert by_id(source)[WEB2_PORT].host == "hv2"
    change(item(cloud, "ports", WEB2_PORT), **{"binding:host_id": "hv1"})
    cloud.objects["ports"].remove(item(cloud, "ports", DB_PORT))
    new = dict(item(cloud, "ports", WEB2_PORT), id="ffffffff-0000-4000-8000-000000000001", revision_number=1)
    cloud.objects["ports"].append(new)
    cloud.queries.clear()
    found = by_id(source)
    assert found[WEB2_PORT].host == "hv1"
    assert DB_PORT not in found
    assert found[new["id"]].vm == "web"
    asked = [query["id"] for path, query in cloud.queries if path == PORTS and "id" in query]
    assert [sorted(ids) for ids in asked] == [sorted([WEB2_PORT, new["id"]])]


def test_changed_servers(cloud: Cloud, source: Openstack) -> None:
    """A new name, a new server, and a deleted one, of which Nova tells with the changes."""
    assert by_id(source)[WEB2_PORT].vm == "web"
    item(cloud, "servers", WEB2).update(name="web-new", updated="2026-11-25T16:10:00Z")
    item(cloud, "servers", DB).update(status="DELETED", updated="2026-11-25T16:10:01Z")
    found = by_id(source)
    assert found[WEB2_PORT].vm == "web-new"
    assert DB_PORT not in found, "its port has no owner, and its device is no server any more"


def test_new_project(cloud: Cloud, source: Openstack) -> None:
    """A project that is not known is looked up; once, if it has no name."""
    source.read()
    for project, name in (("d" * 32, "new"), ("e" * 32, "e" * 32)):
        server = item(cloud, "servers", WEB2)
        server.update(tenant_id=project, updated="2026-11-25T16:20:00Z")
        if name == "new":
            cloud.objects["projects"].append({"id": project, "name": name})
        cloud.asked.clear()
        assert by_id(source)[WEB2_PORT].project == name
        source.read()
        assert cloud.asked[PROJECTS] == 1


def test_full_listing_when_due(cloud: Cloud, tmp_path: Path) -> None:
    """It finds what no change tells of: names of projects, hypervisors, a server gone without trace."""
    source = make_source(cloud, tmp_path, full_seconds=1e-6)
    source.read()
    item(cloud, "projects", SHOP2)["name"] = "lab"
    cloud.objects["hypervisors"].pop()
    cloud.objects["servers"].remove(item(cloud, "servers", DB))
    found = by_id(source)
    assert found[WEB2_PORT].project == "lab"
    assert found["63a51320-8f1e-4417-b9f3-3551db789501"].project == "shop", "no second one of this name"
    assert len(source.read().hosts) == 1
    assert DB_PORT not in found
    source.close()


def test_no_revisions(cloud: Cloud, source: Openstack) -> None:
    """A Neutron without revision numbers is listed in full each time."""
    for kind in ("ports", "networks"):
        for found in cloud.objects[kind]:
            del found["revision_number"]
    assert by_id(source)[WEB2_PORT].host == "hv2"
    item(cloud, "ports", WEB2_PORT)["binding:host_id"] = "hv1"
    assert by_id(source)[WEB2_PORT].host == "hv1"


def test_pages(cloud: Cloud, source: Openstack) -> None:
    """Small pages, links that name a wrong host, and an object at the end of a page that is deleted meanwhile."""
    cloud.largest_page = 2
    deleted = []

    def delete_last_of_page() -> None:
        if len(cloud.queries) == 1 and not deleted:  # the first page of ports has been given
            deleted.append(sorted(cloud.objects["ports"], key=lambda port: str(port["id"]))[1])
            cloud.objects["ports"].remove(deleted[0])

    cloud.before_answer[PORTS] = delete_last_of_page
    found = by_id(source)
    assert len(deleted) == 1
    assert len(found) == 4, "the deleted one had been read before: the next read finds out"
    assert len(by_id(source)) == 3


@pytest.mark.parametrize(
    ("services", "forbidden", "lost", "warnings"),
    [
        ({"identity", "network"}, set(), {"vm", "hosts"}, {"servers", "hypervisors"}),
        (None, {SERVERS}, {"vm"}, {"servers"}),
        (None, {HYPERVISORS}, {"hosts"}, {"hypervisors"}),
        (None, {PROJECTS}, set(), {"names of other projects"}),
        (None, {PROJECTS, OWN_PROJECTS}, {"project"}, {"projects"}),
        (None, {"all_tenants"}, set(), {"servers of other projects"}),
    ],
)
def test_parts_missing(
    cloud: Cloud,
    source: Openstack,
    services: set[str] | None,
    forbidden: set[str],
    lost: set[str],
    warnings: set[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is absent or forbidden is done without, and said once; Neutron's part is whole."""
    cloud.services = services or cloud.services
    cloud.forbidden = forbidden
    with caplog.at_level(logging.INFO, "vmflow"):
        report = source.read()
        source.read()
    web2 = next(interface for interface in report.interfaces if interface.port_id == WEB2_PORT)
    assert (web2.mac, web2.host, web2.vm_uuid) == (0xFA163E9F8B6E, "hv2", UUID(WEB2))
    assert web2.vm == ("" if "vm" in lost else "web")
    assert web2.project == (SHOP2 if "project" in lost else "shop (9b8a7c6d)")
    assert len(report.hosts) == (0 if "hosts" in lost else 2)
    reported = [record.getMessage() for record in caplog.records]
    assert {line.partition(":")[0].removeprefix("does without ") for line in reported} == warnings
    assert len(reported) == len(warnings), "once"


def test_part_that_comes_back(cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rights given later are used with the next full listing."""
    source = make_source(cloud, tmp_path, full_seconds=1e-6)
    cloud.forbidden = {SERVERS}
    assert by_id(source)[WEB2_PORT].vm == ""
    cloud.forbidden = set()
    caplog.clear()
    with caplog.at_level(logging.INFO, "vmflow"):
        assert by_id(source)[WEB2_PORT].vm == "web"
    assert [record.getMessage() for record in caplog.records] == ["has servers now"]
    source.close()


def test_expired_token(cloud: Cloud, source: Openstack) -> None:
    """A token that is refused is replaced; nobody notices."""
    source.read()
    cloud.expire_tokens()
    change(item(cloud, "ports", WEB2_PORT), **{"binding:host_id": "hv1"})
    assert by_id(source)[WEB2_PORT].host == "hv1"
    assert cloud.asked[TOKENS] == 2


@pytest.mark.parametrize("path", [PORTS, NETWORKS, SERVERS, PROJECTS, HYPERVISORS])
def test_service_fails_and_recovers(cloud: Cloud, source: Openstack, path: str) -> None:
    """A failing service is an error, not an empty cloud; afterwards all is well."""
    cloud.broken[path] = 503
    with pytest.raises(SourceError, match=r"openstack lab: \w+ /\S+: HTTP 503 .*: broken by the test") as caught:
        source.read()
    assert PASSWORD not in str(caught.value)
    cloud.broken.clear()
    assert len(source.read().interfaces) == 4


def test_failure_between_keeps_one_state(cloud: Cloud, source: Openstack) -> None:
    """A read that fails half way loses nothing of what it had learnt."""
    source.read()
    change(item(cloud, "ports", WEB2_PORT), **{"binding:host_id": "hv1"})
    cloud.broken[SERVERS] = 500
    with pytest.raises(SourceError):
        source.read()
    cloud.broken.clear()
    assert by_id(source)[WEB2_PORT].host == "hv1"
