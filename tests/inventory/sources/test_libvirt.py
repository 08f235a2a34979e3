"""The libvirt source against libvirt's own test driver: a real library with domains that exist in memory only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from collector.inventory.settings import LibvirtSettings
from collector.inventory.sources import libvirt_domains
from collector.inventory.sources.base import Host, SourceError, SourceSetupError
from collector.inventory.sources.libvirt import Libvirt, Signals, shown_uri, uri_addresses
from collector.inventory.sources.libvirt_domains import Domains
from schemas.inventory import Rank

libvirt = pytest.importorskip(
    "libvirt", reason="needs libvirt-python (Debian, to build it: libvirt-dev pkg-config gcc python3-dev)"
)

URI = "test:///default"
LONG = 60.0
"""Seconds until a wait that fails has failed; no test waits so long if the code is right."""
UUID_OF_TEST = UUID("6695eb01-f6a4-8304-79aa-97f2502e193f")


def source(**settings: Any) -> Libvirt:
    return Libvirt(LibvirtSettings(**{"uri": URI, "counters_seconds": 0, **settings}))


@pytest.fixture
def test_source() -> Iterator[Libvirt]:
    made = source()
    yield made
    made.close()


@pytest.fixture
def domain(test_source: Libvirt) -> Iterator[Any]:
    """The domain `test`, writable; it runs again afterwards.  All connections of a process share the driver's state."""
    test_source.read()
    connection = libvirt.open(URI)
    found = connection.lookupByName("test")
    yield found
    if not found.isActive():
        found.create()
    if found.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        found.resume()
    connection.close()


def vms(made: Libvirt) -> list[str]:
    return [interface.vm for interface in made.read().interfaces]


def test_reads_the_domain_as_the_library_tells_it(test_source: Libvirt) -> None:
    report = test_source.read()

    (found,) = report.interfaces
    connection = libvirt.openReadOnly(URI)
    assert (found.vm, found.vm_uuid) == ("test", UUID(connection.lookupByName("test").UUIDString()))
    assert found.host == connection.getHostname()
    connection.close()
    assert (found.mac, found.port_name, found.network) == (0xAABBCCDDEEFF, "testnet0", "default")
    assert found.ips == (ip_address("192.168.122.3"),)  # what `virsh -c test:///default domifaddr test` says
    assert report.changed_us == 0
    assert report.counters is None


def test_rank_name_and_host() -> None:
    made = source(host="hv1", exporters=["192.0.2.11", "2001:db8::11", "192.0.2.11"])
    report = made.read()
    made.close()

    assert (made.rank, made.name) == (Rank.LIBVIRT, "libvirt test:///default")
    assert report.hosts == (Host(name="hv1", addresses=(ip_address("192.0.2.11"), ip_address("2001:db8::11"))),)
    assert report.interfaces[0].host == "hv1"


def test_an_event_wakes_the_wait_and_dates_the_report(test_source: Libvirt, domain: Any) -> None:
    before_us = time.time_ns() // 1_000
    domain.destroy()

    assert test_source.wait(LONG)
    report = test_source.read()

    assert report.interfaces == ()
    assert before_us <= report.changed_us <= time.time_ns() // 1_000
    assert test_source.read().changed_us == 0

    domain.create()

    assert test_source.wait(LONG)
    assert vms(test_source) == ["test"]


def test_a_paused_domain_stays(test_source: Libvirt, domain: Any) -> None:
    domain.suspend()

    assert test_source.wait(LONG)
    assert domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    assert vms(test_source) == ["test"]


def test_metadata_that_change_are_seen(test_source: Libvirt, domain: Any) -> None:
    nova = "http://openstack.org/xmlns/libvirt/nova/1.1"
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    domain.setMetadata(kind, "<instance><name>web-1</name></instance>", "nova", nova, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    assert test_source.wait(LONG)
    assert vms(test_source) == ["web-1"]

    domain.setMetadata(kind, None, "nova", nova, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def test_two_sources_in_one_process_both_see_the_event(test_source: Libvirt, domain: Any) -> None:
    other = source()
    other.read()
    domain.destroy()

    assert test_source.wait(LONG)
    assert other.wait(LONG)
    other.close()


def test_a_closed_source_is_woken_no_more_and_can_be_read_again(test_source: Libvirt, domain: Any) -> None:
    test_source.close()
    test_source.close()
    domain.destroy()

    assert not test_source.wait(0.2)
    assert vms(test_source) == []


def test_interrupt_ends_the_wait_now_or_the_next_one(test_source: Libvirt) -> None:
    test_source.read()
    test_source.interrupt()

    assert not test_source.wait(LONG)
    assert not test_source.wait(0.01)


def test_a_wait_ends_when_counters_are_due() -> None:
    made = source(counters_seconds=0.01)
    made.read()

    assert not made.wait(LONG)
    made.close()


def test_a_daemon_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    made = source(uri="qemu+unix:///system?socket=/nowhere/libvirt-sock")

    for _ in range(2):
        with pytest.raises(SourceError, match="/nowhere/libvirt-sock") as refused:
            made.read()
        assert not isinstance(refused.value, SourceSetupError)
    assert not made.wait(0.01)
    made.close()
    assert capfd.readouterr().err == ""  # libvirt itself would print there


def test_a_missing_module_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)

    with pytest.raises(SourceSetupError, match=r"pip install 'vmflow\[libvirt\]'.*libvirt-dev, pkg-config, gcc"):
        source()


def test_a_uri_that_is_none() -> None:
    with pytest.raises(SourceSetupError, match="qemu:///system"):
        source(uri="qemu://[")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("qemu:///system", "qemu:///system"),
        ("qemu+ssh://root@hv1/system?keyfile=/k", "qemu+ssh://root@hv1/system?keyfile=/k"),
        ("esx://root:secret@hv1/?no_verify=1", "esx://root@hv1/?no_verify=1"),
        ("esx://root:se@cret@hv1/", "esx://root@hv1/"),
    ],
)
def test_a_name_holds_no_password(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


@pytest.mark.parametrize(
    ("uri", "addresses"),
    [
        ("qemu:///system", ()),
        ("qemu+tcp://192.0.2.11/system", (ip_address("192.0.2.11"),)),
        ("qemu+tls://root@[2001:db8::11]:16514/system", (ip_address("2001:db8::11"),)),
        ("qemu+ssh://127.0.0.1/system", ()),
        ("qemu+ssh://nowhere.invalid/system", ()),
    ],
)
def test_a_remote_uri_names_an_address_of_the_host(uri: str, addresses: tuple[object, ...]) -> None:
    assert uri_addresses(uri) == addresses


def test_a_call_that_hangs_keeps_the_next_one_out(test_source: Libvirt) -> None:
    test_source._busy.acquire()
    with pytest.raises(SourceError, match="earlier call"):
        test_source.read()
    test_source._busy.release()

    assert vms(test_source) == ["test"]


def test_signals_survive_many_events_and_forget_when_taken() -> None:
    signals = Signals()
    for number in range(20_000):
        signals.changed(number.to_bytes(16, "big"))

    changed_us, dirty = signals.take()

    assert changed_us > 0
    assert len(dirty) == 16_384
    assert signals.take() == (0, set())
    assert not signals.wait(0)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A connection to a hypervisor with 1,000 running domains of one interface each."""
    domains = "".join(
        f"""<domain type='test'><name>vm{n}</name><uuid>{UUID(int=n + 1)}</uuid><memory>1024</memory><os>
        <type>hvm</type></os><devices><interface type='network'><mac address='52:54:00:00:{n >> 8:02x}:{n & 255:02x}'/>
        <source network='default'/></interface></devices></domain>"""
        for n in range(1_000)
    )
    file: Path = tmp_path_factory.mktemp("libvirt") / "node.xml"
    network = """<network><name>default</name><bridge name='virbr0'/><ip address='192.168.0.1' netmask='255.255.0.0'>
        <dhcp><range start='192.168.0.2' end='192.168.127.254'/></dhcp></ip></network>"""
    file.write_text(f"<node>{domains}{network}</node>")
    connection = libvirt.openReadOnly(f"test://{file}")
    yield connection
    connection.close()


class Steps:
    """A clock that goes on by one second each time it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_what_was_not_read_in_time_is_read_next_time(many: Any) -> None:
    clock = Steps()
    known = Domains(libvirt, "many", 1e9, guest_agent=False, clock=clock)
    active = many.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    uuids = [domain.UUID() for domain in active]

    found, complete = [0], False
    while not complete:
        complete = known.read(active, set(), "hv1", xml_until=clock.now + 800, addresses_until=0)
        found.append(len(known.interfaces(uuids)))

    assert found[-1] == 1_000
    assert found == sorted(found)
    assert 0 < found[1] < 1_000
    assert {interface.mac & 0xFFFF for interface in known.interfaces(uuids)} == set(range(1_000))


def test_addresses_are_asked_for_in_portions(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_domains, "ADDRESS_CALLS", 400)
    known = Domains(libvirt, "many", 1e9, guest_agent=False, clock=lambda: 0.0)
    active = many.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    uuids = [domain.UUID() for domain in active]

    def with_addresses() -> int:
        assert known.read(active, set(), "hv1", xml_until=1, addresses_until=1)
        return sum(bool(interface.ips) for interface in known.interfaces(uuids))

    assert [with_addresses() for _ in range(6)] == [200, 400, 600, 800, 1_000, 1_000]  # two sources each


def test_a_source_reads_a_thousand_domains_at_once(many: Any) -> None:
    made = source(uri=many.getURI(), deadline_seconds=600)
    assert len(made.read().interfaces) == 1_000
    made.close()


class Garbled:
    """A real domain whose XML is not.  libvirt itself writes none like it."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self.reads = 0

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - libvirt's name
        self.reads += 1
        return "<!DOCTYPE x [<!ENTITY a 'b'>]><domain/>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._domain, name)


def test_a_malformed_domain_costs_itself_only(many: Any, caplog: pytest.LogCaptureFixture) -> None:
    known = Domains(libvirt, "many", 1e9, guest_agent=False, clock=lambda: 0.0)
    bad, *good = many.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)[:5]
    garbled = Garbled(bad)

    for _ in range(2):
        assert known.read([garbled, *good], set(), "hv1", xml_until=1, addresses_until=0)

    found = known.interfaces([domain.UUID() for domain in (bad, *good)])
    assert {interface.vm for interface in found} == {domain.name() for domain in good}
    assert garbled.reads == 1
    assert "domain left out" in caplog.text


def test_only_a_connection_that_asks_guest_agents_may_change_domains(test_source: Libvirt) -> None:
    """libvirt lets no read-only connection ask them; the addresses of the other sources come all the same."""
    made = source(guest_agent=True)

    assert made.read().interfaces[0].ips == test_source.read().interfaces[0].ips
    changing, reading = (asked._session for asked in (made, test_source))
    assert changing is not None
    assert reading is not None
    changing.connection.lookupByName("test").suspend()
    changing.connection.lookupByName("test").resume()
    with pytest.raises(libvirt.libvirtError, match="read"):
        reading.connection.lookupByName("test").suspend()
    made.close()
