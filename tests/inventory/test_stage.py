"""The inventory as a stage, with a file of names on disk, real threads, metrics, and a store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from collector.interfaces import Sink
from collector.inventory import stage
from collector.inventory.settings import InventorySettings, StaticSettings
from collector.inventory.sources.base import SourceSetupError
from collector.inventory.sources.registry import sources, threads
from collector.inventory.stage import InventoryStage
from collector.metrics import Metrics
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.writer import Writer
from collector.threads import Bridge
from decoders.shared import Decoded
from tests.decoders.sflow.support import (
    counters_sample,
    datagram,
    host_adapters,
    host_descr,
    interface_counters,
    item,
    text,
    words,
)
from tests.decoders.support import Sflow, rows
from tests.inventory.support import flow

SECONDS = 30
DECODE = "decode"
WEB, DB = "52:54:00:00:00:01", "52:54:00:00:00:02"
HV1, HV2 = "192.0.2.11", "192.0.2.12"


@dataclass
class Rows:
    """Takes rows as the writer does, and keeps them."""

    batches: list[tuple[str, pa.RecordBatch]] = field(default_factory=list)

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        self.batches.append((table, batch))
        return True

    async def ready(self) -> None:
        """There is always room."""

    def inventory(self) -> list[dict[str, Any]]:
        return rows([batch for table, batch in self.batches if table == "inventory"])


class Clock:
    """Wall clock in µs that fails once on request."""

    def __init__(self) -> None:
        self.broken = False

    def __call__(self) -> int:
        if self.broken:
            self.broken = False
            raise OSError("the clock has stopped")
        return time.time_ns() // 1000


class Lab:
    """An enrichment that runs over one file."""

    def __init__(self, file: Path, settings: InventorySettings, sink: Sink, bridge: Bridge) -> None:
        self.file = file
        self.metrics = Metrics()
        self.clock = Clock()
        self.enrichment = InventoryStage(settings, self.metrics, bridge, sink, clock_us=self.clock)
        self.sflow = Sflow()
        self.sequence = 0

    def flow(self, *, src: str = WEB, dst: str = DB, time_us: int | None = None) -> dict[str, Any]:
        """A flow between two MAC addresses, named."""
        received = self.clock() if time_us is None else time_us
        batch = flow(time_received=received, flow_end=received, src_mac=src, dst_mac=dst, bytes=100, sampling_rate=10)
        return rows(self.enrichment.name(Decoded(flows=[batch])).flows)[0]

    def sends(self, agent: str, *samples: bytes) -> Decoded:
        """Named rows of an sFlow datagram."""
        self.sequence += 1
        message = datagram(*samples, agent=agent, sequence=self.sequence, uptime=self.sequence)
        return self.enrichment.name(self.sflow.decode(message, sender=agent, time_us=self.clock()))

    def health(self) -> dict[str, Any]:
        (state,) = self.enrichment.health().values()
        return state


def write(file: Path, *interfaces: dict[str, object], hosts: Iterable[tuple[str, str]] = ()) -> None:
    """A TOML file, put in place at once."""

    def shown(value: object) -> str:
        return str(value) if isinstance(value, int) else f'"{value}"'

    lines = []
    for interface in interfaces:
        lines += ["[[interface]]", *(f"{key} = {shown(value)}" for key, value in interface.items())]
    for name, address in hosts:
        lines += ["[[host]]", f'name = "{name}"', f'addresses = ["{address}"]']
    new = file.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.rename(file)


def web(host: str = "hv1") -> dict[str, object]:
    return {"mac": WEB, "vm": "web", "host": host, "project": "shop"}


DB_ROW: dict[str, object] = {"mac": DB, "vm": "db", "host": "hv2"}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another thread
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(stage, "COUNT_SECONDS", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "vms.toml"
    write(found, web(), DB_ROW, hosts=[("hv1", HV1), ("hv2", HV2)])
    return found


@asynccontextmanager
async def running(file: Path, sink: Sink | None = None, **values: Any) -> AsyncIterator[Lab]:
    settings = InventorySettings(static=(StaticSettings(file=file, poll_seconds=0.05),), **values)
    async with Bridge(threads(settings) | {DECODE: 1}) as bridge:
        lab = Lab(file, settings, Rows() if sink is None else sink, bridge)
        async with lab.enrichment:
            await lab.enrichment.first_answers()
            yield lab


def test_names_metrics_and_health_after_the_start(file: Path) -> None:
    async def scenario() -> None:
        async with running(file) as lab:
            named = lab.flow()
            assert (named["src_vm"], named["src_host"], named["src_project"]) == ("web", "hv1", "shop")
            assert (named["dst_vm"], named["dst_host"]) == ("db", "hv2")
            assert lab.flow(dst="52:54:00:ff:ff:ff")["dst_vm"] == ""
            name = f"static {file}"
            expected = {
                ("inventory_vms", ()): 2,
                ("inventory_interfaces", ()): 2,
                ("inventory_conflicts", ()): 0,
                ("inventory_left_out_total", ()): 0,
                ("inventory_source_up", (("source", name),)): 1,
                ("inventory_source_interfaces", (("source", name),)): 2,
                ("inventory_source_problems_total", (("source", name),)): 0,
                ("inventory_ends_total", (("named", "yes"),)): 3,
                ("inventory_ends_total", (("named", "no"),)): 1,
                ("inventory_bytes_total", (("named", "yes"),)): 3_000,
                ("inventory_bytes_total", (("named", "no"),)): 1_000,
                ("inventory_rows_total", (("sighting", "unknown"),)): 2,
            }
            await until(lambda: all(lab.metrics.value(n, **dict(labels)) == v for (n, labels), v in expected.items()))
            age = lab.metrics.value("inventory_source_age_seconds", source=name)
            assert age is not None
            assert age >= 0
            assert (lab.metrics.value("inventory_join_seconds_total") or 0) > 0
            state = lab.health()
            assert state.pop("age_seconds") >= 0
            assert state == {"up": True, "interfaces": 2, "error": ""}

    asyncio.run(scenario())


def test_a_change_of_the_file_counts_from_then_on_and_is_reported_in_the_table(file: Path) -> None:
    async def scenario() -> None:
        async with running(file, sink := Rows()) as lab:
            before = lab.clock()
            await until(lambda: len(sink.inventory()) >= 2)
            assert {(r["vm"], r["host"], r["open"], r["source"]) for r in sink.inventory()} == {
                ("web", "hv1", 1, "static"), ("db", "hv2", 1, "static"),
            }  # fmt: skip
            write(file, web("hv2"), DB_ROW, hosts=[("hv1", HV1), ("hv2", HV2)])
            await until(lambda: lab.flow()["src_host"] == "hv2")
            assert lab.flow(time_us=before)["src_host"] == "hv1"
            ended = lambda: [r for r in sink.inventory() if not r["open"]]  # noqa: E731
            await until(ended)
            (end,) = ended()
            (begin,) = [r for r in sink.inventory() if r["host"] == "hv2" and r["vm"] == "web" and r["open"]][:1]
            assert (end["host"], end["valid_to"]) == ("hv1", begin["valid_from"])
            assert before < end["valid_to"] <= lab.clock()

    asyncio.run(scenario())


def test_a_mistake_in_the_file_leaves_the_last_names_in_use(file: Path) -> None:
    async def scenario() -> None:
        async with running(file, grace_seconds=0) as lab:
            write(file, {"mac": 5})
            await until(lambda: not lab.health()["up"])
            assert "mac" in lab.health()["error"]
            assert lab.health()["interfaces"] == 2
            assert lab.flow()["src_vm"] == "web"
            source = f"static {file}"
            await until(lambda: lab.metrics.value("inventory_source_up", source=source) == 0)
            await until(lambda: (lab.metrics.value("inventory_source_problems_total", source=source) or 0) >= 1)
            write(file, {**web(), "vm": "web2"})
            await until(lambda: lab.health()["up"])
            await until(lambda: lab.flow()["src_vm"] == "web2")
            assert lab.flow()["dst_vm"] == ""

    asyncio.run(scenario())


def test_without_its_file_it_does_not_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(SourceSetupError, match=r"missing\.toml.*No such file"):
            async with running(tmp_path / "missing.toml"):
                pytest.fail("it started")
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_the_stop_confirms_everything_that_holds(file: Path) -> None:
    async def scenario() -> None:
        sink = Rows()
        async with running(file, sink) as lab:
            await until(lambda: len(sink.inventory()) >= 2)
            written, stopped = len(sink.batches), lab.clock()
        last = rows([batch for _, batch in sink.batches[written:]])
        assert {(r["vm"], r["open"]) for r in last} == {("web", 1), ("db", 1)}
        assert max(r["valid_to"] for r in last) >= max(r["valid_to"] for r in sink.inventory())
        assert max(r["valid_to"] for r in last) >= stopped - 10_000_000
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def named_port(name: str, index: int) -> bytes:
    return counters_sample(interface_counters(index), item(1005, text(name)), source=(0, index))


def guest(name: str, uuid: int, mac: str, index: int = 9) -> bytes:
    adapters = host_adapters((index, (int(mac.replace(":", ""), 16),)))
    uuid_bytes = uuid.to_bytes(16, "big")
    return counters_sample(host_descr(name, uuid_bytes), adapters, item(2002, words(2, 1)), source=(3, 100_000 + uuid))


def test_what_exporters_say_of_themselves_adds_to_the_file(file: Path) -> None:
    write(file, {**web(), "port_name": "vnet1"}, hosts=[("hv1", HV1)])

    async def scenario() -> None:
        async with running(file) as lab:
            decoded = lab.sends(HV1, named_port("vnet1", 7), guest("other name", 5, WEB, 7), guest("db", 6, DB))
            assert decoded.inventory == []  # learnt from, no rows of their own
            await until(lambda: lab.flow()["dst_vm"] == "db")
            assert lab.flow()["dst_host"] == "hv1"  # the file knows whose address that is
            assert lab.flow()["src_vm"] == "web"
            # The counters of port 7 are the VM's now, also without a name.
            await until(lambda: lab.metrics.value("inventory_conflicts") == 1)
            again = lab.sends(HV1, counters_sample(interface_counters(7), source=(0, 7)))
            assert rows(again.counters)[0]["vm"] == "web"
            assert lab.metrics.value("inventory_vms") == 2

    asyncio.run(scenario())


def test_what_exporters_say_counts_for_nothing_where_it_is_not_wanted(file: Path) -> None:
    write(file, web(), hosts=[("hv1", HV1)])

    async def scenario() -> None:
        async with running(file, in_band=False) as lab:
            assert lab.sends(HV1, guest("db", 6, DB)).inventory == []
            await until(lambda: lab.metrics.value("inventory_vms") == 1)
            await asyncio.sleep(10 * stage.TICK_SECONDS)
            assert lab.flow()["dst_vm"] == ""

    asyncio.run(scenario())


def test_forged_names_leave_room_for_the_sources(file: Path) -> None:
    async def scenario() -> None:
        async with running(file, interfaces=16) as lab:
            for number in range(40):
                lab.sends("203.0.113.1", named_port(f"port{number}", number + 1))
                lab.sends("203.0.113.1", guest("forged", number + 1, f"52:54:00:ff:00:{number:02x}"))
            await until(lambda: lab.metrics.value("inventory_left_out_total") == 72)
            write(file, web(), DB_ROW, *({**web(), "vm": f"vm{n}", "mac": f"52:54:00:00:01:{n:02x}"} for n in range(6)))
            await until(lambda: lab.flow(src="52:54:00:00:01:05")["src_vm"] == "vm5")
            assert lab.metrics.value("inventory_left_out_total") == 72

    asyncio.run(scenario())


def test_a_defect_in_the_regular_work_does_not_end_it(file: Path) -> None:
    async def scenario() -> None:
        async with running(file, sink := Rows()) as lab:
            await until(lambda: len(sink.inventory()) >= 2)
            for _ in range(5):  # the next that ask the clock
                lab.clock.broken = True
                await until(lambda: not lab.clock.broken)
                write(file, web(), DB_ROW)
                await asyncio.sleep(0.3)
            write(file, web("hv2"), DB_ROW)
            await until(lambda: any(r["host"] == "hv2" and r["vm"] == "web" for r in sink.inventory()))
            assert lab.health()["up"] or lab.health()["error"]

    asyncio.run(scenario())


def test_the_snapshot_may_change_while_flows_are_named(file: Path) -> None:
    async def scenario() -> None:
        async with running(file) as lab:
            bridge: Bridge = lab.enrichment._bridge
            seen: set[str] = set()
            for host in ("hv2", "hv1", "hv2"):
                write(file, web(host), DB_ROW)
                async with asyncio.timeout(SECONDS):
                    while (found := await bridge.call(DECODE, lab.flow))["src_host"] != host:
                        seen.add(found["src_host"])
                assert found["src_vm"] == "web"
            assert seen <= {"hv1", "hv2"}

    asyncio.run(scenario())


def test_sources_that_look_alike_are_kept_apart(file: Path) -> None:
    one = StaticSettings(file=file)
    names = [followed.source.name for followed in sources(InventorySettings(static=(one, one, one)))]
    assert names == [f"static {file}", f"static {file} (2)", f"static {file} (3)"]


def test_rows_reach_the_store(file: Path, embedded_store: StoreSettings) -> None:
    async def scenario() -> None:
        async with (
            Writer(embedded_store, Metrics(), asyncio.to_thread, asyncio.to_thread) as writer,
            running(file, writer) as lab,
        ):
            write(file, web("hv2"), DB_ROW)
            await until(lambda: lab.flow()["src_host"] == "hv2")
            await asyncio.sleep(5 * stage.TICK_SECONDS)

    asyncio.run(scenario())
    client = open_client(embedded_store)
    client.database = embedded_store.database
    try:
        found = client.query("SELECT vm, host, open FROM inventory FINAL ORDER BY vm, host").result_rows
    finally:
        client.close()
    assert [tuple(row) for row in found] == [("db", "hv2", 1), ("web", "hv1", 0), ("web", "hv2", 1)]
