"""`vmflow inventory` against an embedded store, and through the read-only endpoint of a running service."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from collector.__main__ import main
from collector.store.client import open_client
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from schemas.flows import FLOWS
from schemas.inventory import INVENTORY
from tests.sql.test_endpoint import served
from tests.table_rows import NOW_US, batch

HOUR = 3_600_000_000
MINUTE = 60_000_000
EMPTY = {
    "open": 1, "source": "libvirt", "sources": "libvirt", "vm_uuid": bytes(16), "vm": "", "project": "", "host": "",
    "network": "", "vni": 0, "vlan": 0, "ips": [], "port_name": "", "if_index": 0, "of_port": 0, "bridge": "",
    "port_id": "", "speed": 0, "agent": bytes(16), "conflict": "",
}  # fmt: skip
UUIDS = {name: UUID(int=number) for number, name in enumerate(("web_1", "web%1", "db", "gone"), 0xABC0)}


def ip(text: str) -> bytes:
    return IPv6Address(f"::ffff:{text}" if ":" not in text else text).packed


def interface(vm: str, mac: int, since: int, until: int, **fixed: Any) -> Any:
    """One row as the product's writer stores it; times are µs before now."""
    uuid = UUIDS[vm].bytes if vm in UUIDS else bytes(16)
    values = {**EMPTY, "vm": vm, "vm_uuid": uuid, "mac": mac, "valid_from": NOW_US - since, "valid_to": NOW_US - until}
    return batch(INVENTORY, 1, **(values | fixed))


ROWS = [
    interface(
        "web_1", 0x5254000A0001, 2 * HOUR, 10 * MINUTE, project="shop", host="hv1", network="front", vni=100,
        ips=[ip("10.0.0.1"), ip("2001:db8::1")], port_name="vnet3", if_index=7, of_port=3, bridge="br-int",
        port_id="p-1", speed=10**9, agent=ip("192.0.2.11"), sources="libvirt,static", conflict="vlan: libvirt says 1",
    ),
    # The same interval confirmed later: the engine keeps this one.
    interface("web%1", 0x5254000A0002, HOUR, 14 * MINUTE, project="shop", host="hv2", source="ovsdb", sources="ovsdb"),
    interface("web%1", 0x5254000A0002, HOUR, 2 * MINUTE, project="shop", host="hv2", source="ovsdb", sources="ovsdb"),
    # Left open by a service that was killed, and begun again by the next.
    interface("db", 0x5254000A0003, 3 * HOUR, 8 * MINUTE, project="bank", host="hv1", ips=[ip("10.0.0.3")]),
    interface("db", 0x5254000A0003, 7 * MINUTE, MINUTE, project="bank", host="hv1", ips=[ip("10.0.0.3")]),
    interface("gone", 0x5254000A0004, 5 * HOUR, 4 * HOUR, project="bank", open=0),
    # Not confirmed any more, and never ended.
    interface("gone", 0x5254000A0005, 5 * HOUR, 16 * MINUTE, project="bank"),
]  # fmt: skip


BEGUN_US: list[int] = []
"""When the rows were stored: the file may have been read long before its tests run."""


def later(row: pa.RecordBatch, by_us: int) -> pa.RecordBatch:
    """The row with its interval moved."""
    for name in ("valid_from", "valid_to"):
        position, column = row.schema.get_field_index(name), row.column(name)
        moved = pa.array([value + by_us for value in column.cast(pa.int64()).to_pylist()]).cast(column.type)
        row = row.set_column(position, row.schema.field(position), moved)
    return row


@pytest.fixture(scope="module")
def store(store_directory: Any) -> StoreSettings:
    settings = StoreSettings(url=f"chdb://{store_directory}", database="inventory_command")
    client = open_client(settings)
    set_up(client, settings)
    BEGUN_US.append(time.time_ns() // 1000)
    for number, row in enumerate(ROWS):
        insert(client, INVENTORY, [later(row, BEGUN_US[-1] - NOW_US)], f"inventory-{number}")
    client.close()
    return settings


class Vmflow:
    """The command line, asking one store."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *overrides: str) -> None:
        self.capsys = capsys
        self.options = [part for override in overrides for part in ("--set", override)]

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Standard output and error of `vmflow inventory`."""
        try:
            found = main(["inventory", *self.options, *arguments])
        except SystemExit as left:
            found = int(str(left.code))
        captured = self.capsys.readouterr()
        assert found == code, captured.err
        return captured.out, captured.err

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*arguments, "-f", "json")[0].splitlines()]

    def vms(self, *arguments: str) -> list[str]:
        return [row["vm"] for row in self.rows(*arguments)]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMFLOW_CONFIG", "")


@pytest.fixture
def vmflow(store: StoreSettings, capsys: pytest.CaptureFixture[str]) -> Vmflow:
    return Vmflow(capsys, f"store.url={store.url}", f"store.database={store.database}", "sql.port=0")


def test_what_is_known_now_with_all_columns(vmflow: Vmflow) -> None:
    rows = vmflow.rows()

    assert [row["vm"] for row in rows] == ["db", "web%1", "web_1"]
    web = rows[2]
    assert web.pop("valid_from")[:10].startswith("20")
    assert web.pop("valid_to")[:10].startswith("20")
    assert web == {
        "open": 1, "source": "libvirt", "sources": "libvirt,static", "vm_uuid": str(UUIDS["web_1"]), "vm": "web_1",
        "project": "shop", "host": "hv1", "network": "front", "vni": 100, "vlan": 0, "mac": "52:54:00:0a:00:01",
        "ips": ["10.0.0.1", "2001:db8::1"], "port_name": "vnet3", "if_index": 7, "of_port": 3, "bridge": "br-int",
        "port_id": "p-1", "speed": 10**9, "agent": "192.0.2.11", "conflict": "vlan: libvirt says 1",
    }  # fmt: skip


def test_table_csv_and_formats_of_the_store(vmflow: Vmflow) -> None:
    table = vmflow()[0].splitlines()
    assert "open" not in table[0]
    assert [cell.strip() for cell in table[4].split("│")][:10] == [
        "web_1", "shop", "hv1", "front", "100", "0", "52:54:00:0a:00:01", "10.0.0.1 2001:db8::1", "vnet3",
        "libvirt,static",
    ]  # fmt: skip
    assert "10.0.0.1 2001:db8::1" in vmflow("-f", "csv")[0]
    assert vmflow("-f", "JSONCompactEachRow", "--vm", "db")[0].count('["10.0.0.3"]') == 1


@pytest.mark.parametrize(
    ("arguments", "vms"),
    [
        (["--vm", "web*"], ["web%1", "web_1"]),
        (["--vm", "web?1"], ["web%1", "web_1"]),
        (["--vm", "web_1"], ["web_1"]),
        (["--vm", "web%1"], ["web%1"]),
        (["--vm", "web\\*"], []),
        (["--vm", "' OR 1 --"], []),
        (["--vm", str(UUIDS["db"])], ["db"]),
        (["--project", "b?nk"], ["db"]),
        (["--host", "HV1", "--project", "shop"], ["web_1"]),
        (["--network", ""], ["db", "web%1"]),
        (["--mac", "5254.000A.0002"], ["web%1"]),
        (["--ip", "10.0.0.3"], ["db"]),
        (["--ip", "2001:DB8:0::1"], ["web_1"]),
        (["--source", "static"], ["web_1"]),
        (["--source", "libvirt"], ["db", "web_1"]),
        (["--conflicts"], ["web_1"]),
        (["--most", "2"], ["db", "web%1"]),
        (["--history", "--mac", "52:54:00:0a:00:03"], ["db", "db"]),
        (["--history", "--vm", "gone"], ["gone", "gone"]),
        (["--history", "--vm", "web%1"], ["web%1"]),
    ],
)
def test_filters(vmflow: Vmflow, store: StoreSettings, arguments: list[str], vms: list[str]) -> None:
    assert vmflow.vms(*arguments) == vms
    # The endpoint takes the same SQL, and the same values of its parameters.
    with served(store) as endpoint:
        port = endpoint.url.rsplit(":", 1)[1]
        asked = Vmflow(vmflow.capsys, f"store.url={store.url}", f"store.database={store.database}", f"sql.port={port}")
        assert asked.vms(*arguments) == vms


def test_what_was_known_at_a_time(vmflow: Vmflow, store: StoreSettings) -> None:
    def at(ago: int) -> list[str]:
        client = open_client(store)
        text = client.query(
            "SELECT replaceOne(toString(fromUnixTimestamp64Micro({at:Int64}, 'UTC')), ' ', 'T')",
            parameters={"at": BEGUN_US[-1] - ago},
        ).result_rows[0][0]
        client.close()
        return vmflow.vms("--at", str(text) + "Z")

    assert at(6 * HOUR) == []
    assert at(270 * MINUTE) == ["gone", "gone"]
    assert at(4 * HOUR) == ["gone"]
    assert at(90 * MINUTE) == ["db", "gone", "web_1"]
    assert at(5 * MINUTE) == ["db", "gone", "web%1", "web_1"]


def test_times_without_a_zone_are_utc(vmflow: Vmflow, store: StoreSettings) -> None:
    client = open_client(store)
    client.database = store.database
    client.command(
        "INSERT INTO inventory (valid_from, valid_to, open, vm, mac) VALUES "
        "('2026-01-01 12:00:00', '2026-01-01 13:00:00', 0, 'old', 9)"
    )
    client.close()

    assert vmflow.vms("--at", "2026-01-01T12:30", "--vm", "old") == ["old"]
    assert vmflow.vms("--at", "2026-01-01 14:30+02:00", "--vm", "old") == ["old"]
    assert vmflow.vms("--at", "2026-01-01T12:30-05:00", "--vm", "old") == []
    assert vmflow.vms("--at", "2026-01-01 13:00", "--vm", "old") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mac", "52:54"], "argument --mac: '52:54' is no MAC address; 52:54:00:0a:00:01, 52-54-00-0a-00-01"),
        (["--ip", "10.0.0"], "argument --ip: '10.0.0' is no IP address; 10.0.0.1 or 2001:db8::1 expected"),
        (["--at", "noon"], "argument --at: 'noon' is no time; 2026-11-25T15:01 or "),
        (["--at", "1492-01-01"], "argument --at: '1492-01-01' is out of range"),
        (["--source", "guess"], "argument --source: invalid choice: 'guess' (choose from"),
        (["--at", "2026-01-01", "--history"], "argument --history: not allowed with argument --at"),
        (["--most", "0"], "--minutes and --most must be 1 or more"),
        (["--unattributed", "--vm", "a", "--conflicts"], "--unattributed does not go together with --vm, --conflicts"),
        (["--sources", "-f", "Parquet"], "--format Parquet: --sources prints table, json, csv"),
    ],
)
def test_mistakes_in_the_call(vmflow: Vmflow, arguments: list[str], message: str) -> None:
    output, expected = vmflow(*arguments, code=2)

    assert message in expected
    assert output == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no VM is known now: `--sources` shows how the sources are, docs/inventory.md how to set"),
        (["--vm", "x"], "nothing in the inventory is like that; `vmflow inventory` without filters shows what is"),
        (["--ip", "10.0.0.1"], "nothing is known of this address now; --history shows what was"),
        (["--unattributed"], "all traffic of the last 60 minutes has VM names, or there was none"),
    ],
)
def test_nothing_known_is_reported_in_one_line(
    embedded_store: StoreSettings, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    options = [f"store.url={embedded_store.url}", f"store.database={embedded_store.database}", "sql.port=0"]

    output, expected = Vmflow(capsys, *options)(*arguments, "-f", "json")

    assert output == Vmflow(capsys, *options)(*arguments)[0] == ""
    assert expected.startswith(f"vmflow inventory: {message}")
    assert expected.count("\n") == 1


def test_intervals_that_are_confirmed_rarely_are_known_longer(vmflow: Vmflow) -> None:
    """For three times as long; minutes lie between these limits and the rows, which age while tests run."""
    assert vmflow.vms("--set", "inventory.write_seconds=600") == ["db", "gone", "web%1", "web_1"]
    assert vmflow.vms("--set", "inventory.write_seconds=120") == ["db", "web%1"]


def test_rows_left_out_are_reported(vmflow: Vmflow) -> None:
    assert vmflow("--most", "2")[1] == "vmflow inventory: only the first 2 rows; --most N shows more\n"
    assert vmflow()[1] == ""


FLOW = {
    "time_received": NOW_US - 10 * MINUTE, "exporter": ip("192.0.2.1"), "protocol": "sflow5", "src_vm": "a",
    "dst_vm": "b", "bytes": 1000, "packets": 10, "sampling_rate": 3, "src_vm_uuid": UUIDS["db"].bytes,
    "dst_vm_uuid": UUIDS["db"].bytes, "src_mac": 0x02, "dst_mac": 0x04, "src_ip": ip("10.9.0.1"),
    "dst_ip": ip("10.9.0.2"),
}  # fmt: skip
NOBODY = bytes(16)
NO_SOURCE = {"src_vm": "", "src_vm_uuid": NOBODY}
NO_DESTINATION = {"dst_vm": "", "dst_vm_uuid": NOBODY}
FLOW_ROWS: list[tuple[int, dict[str, Any]]] = [
    (4, {}),
    (2, NO_SOURCE | {"src_mac": 0x0200000000AA, "src_ip": ip("10.1.0.1"), "sighting": "destination"}),
    (1, NO_SOURCE | {"src_mac": 0x0200000000AA, "src_ip": ip("10.1.0.2"), "exporter": ip("192.0.2.2"),
                     "time_received": NOW_US - 30 * MINUTE, "sighting": "destination"}),
    (1, NO_DESTINATION | {"dst_mac": 0x0200000000AA, "dst_ip": bytes(16), "sighting": "source"}),
    # Seen on the way, too, and by another protocol: no more traffic.
    (3, NO_SOURCE | {"src_mac": 0x0200000000AA, "src_ip": ip("10.1.0.1"), "sighting": "external",
                     "exporter": ip("192.0.2.2")}),
    (1, NO_DESTINATION | {"dst_mac": 0x0200000000AA, "dst_ip": bytes(16), "sighting": "source", "protocol": "ipfix"}),
    (2, NO_DESTINATION | {"dst_mac": 0, "dst_ip": ip("2001:db8::99"), "bytes": 50_000, "sighting": "source"}),
    (1, NO_DESTINATION | {"dst_mac": 0, "dst_ip": ip("10.1.0.9"), "bytes": 1}),
    # Left out: nobody's addresses, those of many, a VM known by its UUID only, and what is too old.
    (1, NO_SOURCE | {"src_mac": 0, "src_ip": bytes(16)}),
    (1, NO_DESTINATION | {"dst_mac": 0xFFFFFFFFFFFF}),
    (1, NO_DESTINATION | {"dst_mac": 0x01005E000001, "dst_ip": ip("224.0.0.1")}),
    (1, NO_DESTINATION | {"dst_mac": 0, "dst_ip": ip("239.1.2.3")}),
    (1, NO_DESTINATION | {"dst_mac": 0, "dst_ip": ip("255.255.255.255")}),
    (1, NO_DESTINATION | {"dst_mac": 0, "dst_ip": ip("ff02::fb")}),
    (1, {"src_vm": "", "src_mac": 0x0200000000BB}),
    (1, NO_SOURCE | {"src_mac": 0x0200000000CC, "time_received": NOW_US - 90 * MINUTE}),
]  # fmt: skip


def test_traffic_without_a_name(vmflow: Vmflow, store: StoreSettings) -> None:
    client = open_client(store)
    client.database = store.database
    client.command("TRUNCATE TABLE flows")
    for number, (count, fixed) in enumerate(FLOW_ROWS):
        insert(client, FLOWS, [batch(FLOWS, count, **(FLOW | fixed))], f"flows-{number}")
    times = client.query("SELECT min(time_received), max(time_received) FROM flows WHERE src_mac = 0x0200000000AA")
    first, last = (str(time) for time in times.result_rows[0])
    client.close()

    rows = vmflow.rows("--unattributed")

    assert [(row["mac"], row["ips"], row["bytes_estimated"]) for row in rows] == [
        ("", ["2001:db8::99"], 300_000),
        ("02:00:00:00:00:aa", ["10.1.0.1", "10.1.0.2"], 12_000),
        ("", ["10.1.0.9"], 3),
    ]
    assert rows[1] == {
        "mac": "02:00:00:00:00:aa", "ips": ["10.1.0.1", "10.1.0.2"], "ip_count": 2, "packets_estimated": 120,
        "bytes_estimated": 12_000, "first_seen": first, "last_seen": last, "exporters": ["192.0.2.1", "192.0.2.2"],
    }  # fmt: skip
    assert len(vmflow.rows("--unattributed", "--minutes", "100")) == 4
    assert [row["bytes_estimated"] for row in vmflow.rows("--unattributed", "--mac", "2:0:0:0:0:aa")] == [12_000]
    assert [row["packets_estimated"] for row in vmflow.rows("--unattributed", "--ip", "10.1.0.1")] == [60]
    assert "10.1.0.1 10.1.0.2" in vmflow("--unattributed")[0]


@contextmanager
def health(status: int, body: bytes) -> Iterator[int]:
    """An HTTP server that answers /health so; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_how_the_sources_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Told although the service as a whole is not well."""
    state = {
        "static /etc/x.csv": {"up": False, "age_seconds": None, "interfaces": 0, "error": "line 2: vlan = 5000"},
        "libvirt qemu:///system": {"up": True, "age_seconds": 1.5, "interfaces": 3, "error": ""},
    }
    with health(503, json.dumps({"status": "inventory", "inventory": state}).encode()) as port:
        rows = Vmflow(capsys, f"web.port={port}", "web.host=0.0.0.0", "access.anonymous=true").rows("--sources")
        table = Vmflow(capsys, f"web.port={port}")("--sources")[0].splitlines()

    assert rows == [{"source": name, **state[name]} for name in sorted(state)]
    assert [cell.strip() for cell in table[2].split("│")] == ["libvirt qemu:///system", "True", "1.5", "3", ""]


@pytest.mark.parametrize("body", [b"{}", b"ok", b'{"inventory": {"a": 1}}', b"[]"])
def test_a_service_without_inventory(capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    with health(200, body) as port:
        expected = Vmflow(capsys, f"web.port={port}")("--sources", code=1)[1]

    assert expected.startswith(f"vmflow inventory: http://127.0.0.1:{port}/health has no inventory")


def test_no_source_and_no_service(capsys: pytest.CaptureFixture[str]) -> None:
    with health(200, b'{"inventory": {}}') as port:
        assert "no source is set; docs/inventory.md" in Vmflow(capsys, f"web.port={port}")("--sources", "-f", "json")[1]
    assert "no service answers at http://127.0.0.1:1: " in Vmflow(capsys, "web.port=1")("--sources", code=1)[1]
    assert "web.enabled and web.port must be set" in Vmflow(capsys, "web.enabled=false")("--sources", code=1)[1]
