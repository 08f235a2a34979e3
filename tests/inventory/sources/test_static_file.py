"""The static source: both file formats, every mistake reported, and changes seen however they are made."""

from __future__ import annotations

import os
import re
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from uuid import UUID

import pytest

from collector.inventory.settings import StaticSettings
from collector.inventory.sources.base import Host, Interface, PortKind, SourceError, SourceSetupError, parse_mac
from collector.inventory.sources.static_file import COLUMNS, Static, parse
from collector.settings import load
from schemas.inventory import Rank

ROOT = Path(__file__).resolve().parents[3]

TOML = """
[[interface]]
mac = "52:54:00:0A:00:01"
ips = ["10.0.0.1", "2001:db8::1"]
vm = "web-1"
vm_uuid = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
project = "shop"
host = "hv1"
network = "front"
vni = 16777215
vlan = 4094
port_name = "vnet3"
if_index = 7
of_port = 65279
bridge = "br-int"
speed_bits_per_second = 10000000000
kind = "vm"

[[interface]]
host = "hv1"
port_name = "vxlan0"
kind = "tunnel"

[[host]]
name = "hv1"
addresses = ["192.0.2.11", "2001:db8:0:1::11"]
"""
CSV = """\
# who is who
mac,ips,vm,vm_uuid,project,host,network,vni,vlan,port_name,if_index,of_port,bridge,speed_bits_per_second,kind

52:54:00:0A:00:01, 10.0.0.1;2001:db8::1 ,web-1,1b4e28ba-2fa1-11d2-883f-0016d3cca427,shop,hv1,front,16777215,4094,\
vnet3,7,65279,br-int,10000000000,vm
  # a port of its own
,,,,,hv1,,,,vxlan0,,,,,tunnel
"""
WEB = Interface(
    host="hv1",
    port_name="vnet3",
    if_index=7,
    of_port=65279,
    bridge="br-int",
    kind=PortKind.VM,
    mac=0x5254000A0001,
    vm="web-1",
    vm_uuid=UUID("1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
    project="shop",
    network="front",
    vni=16777215,
    vlan=4094,
    ips=(ip_address("10.0.0.1"), ip_address("2001:db8::1")),
    speed=10**10,
)
TUNNEL = Interface(host="hv1", port_name="vxlan0", kind=PortKind.TUNNEL)
POLL = 0.05


def static(file: Path, text: str | bytes) -> Static:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Static(StaticSettings(file=file, poll_seconds=POLL))


def test_toml_and_csv_say_the_same(tmp_path: Path) -> None:
    toml, table = static(tmp_path / "a.toml", TOML), static(tmp_path / "a.csv", CSV)

    assert toml.read().interfaces == table.read().interfaces == (WEB, TUNNEL)
    assert toml.read().hosts == (
        Host(name="hv1", addresses=(ip_address("192.0.2.11"), ip_address("2001:db8:0:1::11"))),
    )
    assert table.read().hosts == ()
    assert (toml.rank, toml.name) == (Rank.STATIC, f"static {tmp_path}/a.toml")


def test_a_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """Byte order mark, carriage returns, quotes, other order of columns, addresses with spaces between."""
    text = '\ufeff"vm","mac","ips"\r\n"Größe, ""klein""","52-54-0-A-0-2","10.0.0.2 10.0.0.3 10.0.0.2"\r\n'
    text += ",5254.000a.0003,\r\n"

    assert static(tmp_path / "a.CSV", text).read().interfaces == (
        Interface(vm='Größe, "klein"', mac=0x5254000A0002, ips=(ip_address("10.0.0.2"), ip_address("10.0.0.3"))),
        Interface(mac=0x5254000A0003),
    )


def test_an_empty_toml_and_a_csv_with_a_header_only_are_no_mistakes(tmp_path: Path) -> None:
    assert static(tmp_path / "a.toml", "").read().interfaces == ()
    assert static(tmp_path / "a.csv", "mac,vm\n").read().interfaces == ()


@pytest.mark.parametrize(
    "text", ["52:54:00:0a:00:01", "52-54-00-0A-00-01", "5254.000a.0001", "5254000A0001", " 52:54:0:a:0:1 "]
)
def test_macs_in_any_usual_notation(text: str) -> None:
    assert parse_mac(text) == 0x5254000A0001


@pytest.mark.parametrize(
    "text", ["", "52:54:00:0a:00", "52:54-00:0a:00:01", "5254:000a:0001", "5254000a00011", "g2:54:00:0a:00:01", 7]
)
def test_what_is_no_mac(text: object) -> None:
    with pytest.raises(ValueError, match=r"no MAC address; 52:54:00:0a:00:01, .* expected"):
        parse_mac(text)


MAC = 'mac = "52:54:00:0a:00:01"'
TOML_MISTAKES = {
    "a = \n": "a.toml: no TOML: Invalid value (at line 1, column 5)",
    "[[interfaces]]\n": "a.toml: no such table 'interfaces'; [[interface]] and [[host]] are expected",
    "[interface]\n": "a.toml: 'interface' is no list of tables; [[interface]] is expected before each entry",
    f"[[interface]]\n{MAC}\n[[interface]]\ncolour = 1": "[[interface]] 2: no such key 'colour'; expected: mac, ips,",
    '[[interface]]\nmac = "5"': "a.toml [[interface]] 1: mac = '5': no MAC address; 52:54:00:0a:00:01, ",
    '[[interface]]\nmac = "ff:ff:ff:ff:ff:ff"': "mac = 'ff:ff:ff:ff:ff:ff': zero, multicast and broadcast belong to no",
    '[[interface]]\nmac = "0:0:0:0:0:0"': "mac = '0:0:0:0:0:0': zero, multicast and broadcast belong to no interface",
    f'[[interface]]\n{MAC}\nips = ["10.0.0.1/24"]': "ips.0 = '10.0.0.1/24': no IP address; 10.0.0.1 or 2001:db8::1",
    f"[[interface]]\n{MAC}\nips = [5]": "ips.0 = 5: no IP address",
    f'[[interface]]\n{MAC}\nips = "10.0.0.1"': "ips = '10.0.0.1': a list is expected, such as [\"10.0.0.1\"]",
    f'[[interface]]\n{MAC}\nips = ["224.0.0.1"]': "ips.0 = '224.0.0.1': unspecified and multicast addresses",
    f'[[interface]]\n{MAC}\nips = ["ff02::1"]': "ips.0 = 'ff02::1': unspecified and multicast addresses",
    f"[[interface]]\n{MAC}\nvlan = 4095": "vlan = 4095: input should be less than or equal to 4094",
    f"[[interface]]\n{MAC}\nvni = true": "vni = True: input should be a valid integer",
    f'[[interface]]\n{MAC}\nkind = "uplink"': "kind = 'uplink': input should be 'unknown', 'vm', 'tunnel', 'patch' or",
    f'[[interface]]\n{MAC}\nvm_uuid = "7"': "vm_uuid = '7': input should be a valid UUID",
    f'[[interface]]\n{MAC}\nvm = "a\\nb"': r"vm = 'a\nb': printable characters expected",
    '[[interface]]\nvm = "web"': "[[interface]] 1: neither a VM's interface nor a port: mac is expected, or host",
    f"[[interface]]\n{MAC}\n[[interface]]\n{MAC}": "2: mac = '52:54:00:0a:00:01' with the same network, vni and",
    '[[host]]\nname = "hv1"': "a.toml [[host]] 1: addresses: field required",
    '[[host]]\nname = ""\naddresses = ["192.0.2.1"]': "[[host]] 1: name = '': string should have at least 1 character",
    '[[host]]\nname = "a"\naddresses = ["192.0.2.1"]\n[[host]]\nname = "b"\naddresses = ["192.0.2.1"]': (
        "[[host]] 2: addresses = '192.0.2.1' stands at"
    ),
}
CSV_MISTAKES = {
    "": "a.csv: no header row; columns such as mac,ips,vm are expected in the first line",
    "mac;vm\n": "a.csv line 1: no such column 'mac;vm'; expected, separated by commas: mac, ips,",
    "mac,vm,mac\n": "a.csv line 1: column 'mac' stands twice",
    "# c\nmac,vm\n\n5254000a0001\n": "a.csv line 4: 1 cells; 2 are expected, as in the header row",
    "mac,vlan\n5254000a0001,4095\n": "a.csv line 2: vlan = 4095: input should be less than or equal to 4094",
    "mac,vlan\n5254000a0001,-1\n": "a.csv line 2: vlan = '-1': input should be a valid integer",
    "mac,ips\n5254000a0001,10.0.0.1;x\n": "a.csv line 2: ips.1 = 'x': no IP address",
    "mac\n5254000a0001\n# c\n52:54:00:0a:00:01\n": "a.csv line 4: mac = '52:54:00:0a:00:01' with the same network, ",
    'mac,vm\n5254000a0001,"a\n': "a.csv line 2: no CSV: unexpected end of data",
    "host,port_name\nhv1,tap0\nhv1,tap0\n": "a.csv line 3: port_name = 'tap0' on host 'hv1' stands at",
}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        *(("a.toml", text, message) for text, message in TOML_MISTAKES.items()),
        *(("a.csv", text, message) for text, message in CSV_MISTAKES.items()),
        ("a.yaml", "", "a.yaml: the ending '.yaml' says nothing; .toml or .csv is expected"),
        ("a.csv", b"mac,vm\n5254000a0001,Gr\xf6\xdfe\n", "a.csv line 2: octet 0xf6 is no UTF-8"),
    ],
)
def test_mistakes_say_where_what_and_what_was_expected(name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse(Path(name), text if isinstance(text, bytes) else text.encode())

    assert message in str(caught.value)


def test_one_mac_in_two_networks_is_no_mistake(tmp_path: Path) -> None:
    source = static(tmp_path / "a.csv", "mac,vni,vm\n5254000a0001,1,a\n5254000a0001,2,b\n")

    assert [interface.vm for interface in source.read().interfaces] == ["a", "b"]


@pytest.mark.parametrize("kind", ["missing", "wrong", "directory", "pipe", "too long"])
def test_a_file_that_never_could_be_used_is_a_mistake_of_the_setup(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.csv"
    if kind == "wrong":
        file.write_text("nothing\n")
    elif kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "too long":
        with file.open("wb") as stream:
            stream.truncate(2**28 + 1)
    expected = {
        "missing": "No such file or directory",
        "wrong": "no such column 'nothing'",
        "directory": "is no regular file",
        "pipe": "is no regular file",
        "too long": "has 268435457 octets: 268435456 at most",
    }

    with pytest.raises(SourceSetupError, match=expected[kind]):
        Static(StaticSettings(file=file)).read()


def names(source: Static) -> list[str]:
    return [interface.vm for interface in source.read().interfaces]


def test_a_later_mistake_is_reported_until_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    source = static(file, "mac,vm\n5254000a0001,a\n")
    assert names(source) == ["a"]
    for break_it, message in (
        (lambda: file.write_text("mac,vm\nx,a\n"), "line 2: mac = 'x'"),
        (file.unlink, "No such file"),
    ):
        break_it()
        assert source.wait(20)
        for _ in range(2):
            with pytest.raises(SourceError, match=message) as caught:
                source.read()
            assert not isinstance(caught.value, SourceSetupError)
        assert not source.wait(3 * POLL)
    file.write_text("mac,vm\n5254000a0001,b\n")
    assert source.wait(20)
    assert names(source) == ["b"]


@pytest.mark.parametrize("how", ["written into", "replaced", "replaced, same size and time", "link turned"])
def test_every_way_of_changing_a_file_is_noticed(tmp_path: Path, how: str) -> None:
    file, other = tmp_path / "a.csv", tmp_path / "b.csv"
    other.write_text("mac,vm\n5254000a0001,b\n")
    if how == "link turned":
        (tmp_path / "first.csv").write_text("mac,vm\n5254000a0001,a\n")
        file.symlink_to("first.csv")
        source = Static(StaticSettings(file=file, poll_seconds=POLL))
    else:
        source = static(file, "mac,vm\n5254000a0001,a\n")
    assert names(source) == ["a"]
    assert not source.wait(3 * POLL)

    if how == "written into":
        file.write_text(other.read_text())
    elif how == "link turned":
        (tmp_path / "link").symlink_to("b.csv")
        (tmp_path / "link").replace(file)
    else:
        if how == "replaced, same size and time":
            state = file.stat()
            os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
        other.replace(file)

    assert source.wait(20)
    assert names(source) == ["b"]
    assert not source.wait(3 * POLL)


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """Each piece could be read by itself: only rest tells that it is all."""
    file = tmp_path / "a.csv"
    file.write_text("mac,vm\n5254000a0001,a\n")
    source = Static(StaticSettings(file=file, poll_seconds=0.5))
    assert names(source) == ["a"]
    file.write_text("mac,vm\n")
    assert names(source) == ["a"]
    with file.open("a") as stream:
        for number in range(20):
            time.sleep(0.05)
            stream.write(f"5254000a00{number:02},vm-{number}\n")
            stream.flush()
            assert len(names(source)) == 1
    assert source.wait(20)
    assert names(source) == [f"vm-{number}" for number in range(20)]


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    source = static(tmp_path / "a.toml", TOML)

    assert source.read() is source.read()
    assert not source.wait(0)


def test_interrupt_ends_a_wait(tmp_path: Path) -> None:
    source = Static(StaticSettings(file=tmp_path / "a.csv", poll_seconds=3600))
    (tmp_path / "a.csv").write_text("mac\n")
    source.read()
    ended: list[bool] = []
    waiting = threading.Thread(target=lambda: ended.append(source.wait(3600)))
    waiting.start()
    source.interrupt()
    waiting.join(20)

    assert ended == [False]
    source.close()


def test_what_was_put_right_counts_at_the_next_question(tmp_path: Path) -> None:
    """After a mistake nobody waits for changes: we are only asked again, after longer and longer pauses."""
    file = tmp_path / "a.csv"
    source = static(file, "mac,vm\n5254000a0001,a\n")
    assert names(source) == ["a"]
    file.write_text("nothing\n")
    assert source.wait(20)
    with pytest.raises(SourceError, match="no such column 'nothing'"):
        source.read()

    file.write_text("mac,vm\n5254000a0001,b\n")

    assert names(source) == ["b"]


DOCUMENTATION = (ROOT / "docs/inventory.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", DOCUMENTATION, re.MULTILINE | re.DOTALL)


def test_the_documentations_settings_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block by itself, and all of them together in one file."""
    for name in [name for name in os.environ if name.startswith("VMFLOW_")]:
        monkeypatch.delenv(name)
    settings = [block for block in blocks("toml") if "inventory" in block.split("\n")[0]]
    for number, text in enumerate([*settings, "\n".join(settings)]):
        (tmp_path / f"{number}.toml").write_text(text)
        inventory = load(tmp_path / f"{number}.toml").inventory

    assert len(settings) == 5
    given = [getattr(inventory, kind) for kind in ("libvirt", "ovsdb", "openstack", "static")]
    assert [len(sources) for sources in given] == [1, 1, 1, 1]
    assert (inventory.in_band, inventory.host_names) == (False, "full")
    assert DOCUMENTATION.index("**libvirt**") < DOCUMENTATION.index("**OVSDB**") < DOCUMENTATION.index("**OpenStack**")


def test_the_documentations_files_are_right(tmp_path: Path) -> None:
    (toml,) = (block for block in blocks("toml") if block.startswith("[[interface]]"))
    (table,) = blocks("csv")

    report = static(tmp_path / "a.toml", toml).read()
    assert [interface.vm or interface.port_name for interface in report.interfaces] == ["web-1", "eth0"]
    assert report.hosts == (Host(name="hv1", addresses=(ip_address("192.0.2.11"),)),)
    first, second = static(tmp_path / "a.csv", table).read().interfaces
    assert (first.mac, first.ips) == (report.interfaces[0].mac, report.interfaces[0].ips)
    assert (second.vm, second.mac) == ("web-2, spare", 0x5254000A0002)


def test_the_documentation_lists_every_key() -> None:
    table = DOCUMENTATION.split("| key | meaning |")[1].split("\n\n")[0]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(COLUMNS)


def test_the_documentation_names_metrics_that_exist() -> None:
    source = (ROOT / "collector/inventory/stage.py").read_text(encoding="utf-8")
    named = set(re.findall(r"`vmflow_(inventory_\w+)`", DOCUMENTATION))

    assert len(named) >= 6
    assert {name for name in named if f'"{name}"' not in source} == set()
