"""The inventory as a stage: follows its sources, keeps the snapshot fresh, names batches and writes table `inventory`.

sources ──► followers ──► history ──► snapshot ──► namer ◄── decoded batches
(a thread each)  (event loop)   (inventory thread)     (decode workers)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from collector.interfaces import Clock, Sink
from collector.inventory import ends
from collector.inventory.exporters import InBand
from collector.inventory.history import History
from collector.inventory.join import N_FOREIGN, N_NAMED, N_UNNAMED
from collector.inventory.naming import Namer, warm_up
from collector.inventory.poller import Polled, SourcePoller
from collector.inventory.rows import inventory_rows
from collector.inventory.settings import InventorySettings
from collector.inventory.snapshot import build
from collector.inventory.sources.base import Address, Report
from collector.inventory.sources.registry import INVENTORY_THREAD, sources
from collector.log import get_log
from collector.metrics import Metrics, RunningTotals
from collector.threads import Bridge
from decoders.shared import Decoded
from schemas.flows import FLOWS
from schemas.inventory import Rank
from schemas.text import cleaned

REBUILD_SECONDS = 0.1
"""Changes that come closer together than this share one new snapshot."""
IDLE_SHARE = 4
"""A new snapshot, and what was learnt from the stream, are followed by a pause of this many times what they took: with
100,000 interfaces they take a tenth of a second and more than a second of Python, which the decoders need, too."""
IN_BAND_SHARE = 4
"""Names from the stream get one part in this of the room for interfaces, VMs in it another: senders may be forged."""
TICK_SECONDS = 1.0
"""How often names from the stream are taken over and metrics updated."""

COUNT_SECONDS = 5.0
"""How often the interfaces are counted for the metrics."""

_log = get_log("inventory")


class InventoryStage:
    """The stage that names the VM at each end of flows.  A component; `name` is for decode workers, the rest for the
    event loop."""

    def __init__(
        self,
        settings: InventorySettings,
        metrics: Metrics,
        bridge: Bridge,
        sink: Sink,
        *,
        clock_us: Clock,
        workers: int = 1,
    ) -> None:
        """`bridge` must have the threads that `sources.threads` names; rows of table `inventory` go to `sink`.

        `workers` is the number of decode workers that call `name`.
        """
        self._settings = settings
        self._bridge = bridge
        self._sink = sink
        self._clock_us = clock_us
        history_us = int(settings.history_seconds * 1e6)
        self._history = History(settings.interfaces, history_us, settings.host_names == "short")
        grace_us = int(settings.grace_seconds * 1e6)
        self._namers = [Namer(history_us, grace_us, by_port=settings.name_unknown_macs) for _ in range(workers)]
        self._observing = threading.Lock()
        self._in_band = InBand(max(1, settings.interfaces // IN_BAND_SHARE))
        self._followers: list[SourcePoller] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._dirty = asyncio.Event()
        self._counter_namer = Namer(history_us, int(settings.grace_seconds * 1e6))
        """A join of the inventory's own thread, for counters that sources read."""
        self._known: dict[Address, str] = {}
        self._next_write = self._next_count = self._next_learn = time.monotonic()
        self._build_seconds = 0.0
        self._vms = self._conflicts = self._interfaces = 0
        self._declare(metrics)

    def _declare(self, metrics: Metrics) -> None:
        self._up = metrics.gauge("inventory_source_up", "1 if the source's last answer was good.", ("source",))
        self._age = metrics.gauge(
            "inventory_source_age_seconds",
            "Age of what is known from the source; -1 before its first answer.",
            ("source",),
        )
        self._stated = metrics.gauge("inventory_source_interfaces", "Interfaces that the source states.", ("source",))
        self._problems = metrics.counter("inventory_source_problems_total", "Attempts that failed.", ("source",))
        for name, text, value in (
            ("inventory_vms", "VMs known now.", lambda: self._vms),
            ("inventory_interfaces", "VM interfaces known now.", lambda: self._interfaces),
            ("inventory_conflicts", "VM interfaces on which sources differ.", lambda: self._conflicts),
        ):
            metrics.gauge(name, text).set_function(value)
        self._cleaned = metrics.counter("names_cleaned_total", "Texts of others in which something was escaped or cut.")
        self._left_out = metrics.counter("inventory_left_out_total", "Interfaces left out for lack of room.")
        ends = metrics.counter(
            "inventory_ends_total", "Ends of flows that could be a VM's, by whether one was found.", ("named",)
        )
        octets = metrics.counter(
            "inventory_bytes_total", "Estimated layer 3 octets at those ends: the share without a name.", ("named",)
        )
        self._foreign = metrics.counter(
            "inventory_unknown_mac_ends_total",
            "Ends of flows at a VM's port whose MAC address is not that of the interface: nested VMs, or made up.",
        )
        self._foreign_before = 0
        sightings = metrics.counter("inventory_rows_total", "Flow rows, by sighting.", ("sighting",))
        self._totals = (RunningTotals(ends), RunningTotals(octets), RunningTotals(sightings))
        self._seconds = metrics.counter("inventory_join_seconds_total", "Time spent in naming flows.")
        self._problems_before: dict[str, int] = {}
        self._left_out_before = 0
        self._cleaned_before = cleaned()

    async def __aenter__(self) -> Self:
        """Make the sources and read the files among them.  Raises SourceSetupError for a source that can never work."""
        self._followers = [self._follower(followed) for followed in sources(self._settings)]
        for follower in self._followers:
            if follower.source.rank is Rank.STATIC:
                await follower.read(raise_setup_errors=True)
        self._tasks = [asyncio.create_task(follower.run(), name=follower.source.name) for follower in self._followers]
        self._tasks += [asyncio.create_task(_for_ever(step), name="inventory") for step in (self._rebuild, self._tick)]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(follower.stop() for follower in self._followers))
        self._sink_rows(await self._bridge.call(INVENTORY_THREAD, self._rows, every=True))

    def _follower(self, followed: Polled) -> SourcePoller:
        return SourcePoller(followed, self._bridge, self._deliver, self._clock_us)

    async def first_answers(self) -> None:
        """Wait until every source was polled once, at most `start_seconds`, then build the snapshot."""
        waiting = [follower.answered.wait() for follower in self._followers]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.start_seconds):
                await asyncio.gather(*waiting)
        late = [follower.source.name for follower in self._followers if not follower.answered.is_set()]
        if late:
            _log.warning("decoding starts without these sources", sources=", ".join(late))
        await self._bridge.call(INVENTORY_THREAD, self._build)

    def warm_up(self) -> None:
        """Compile the kernels, or load them.  Blocks."""
        warm_up()

    def name(self, decoded: Decoded, worker: int = 0) -> Decoded:
        """Return the same rows, named.  Host structures among them are learnt from: they are not rows themselves.

        For the decode workers, each on its own thread.
        """
        began = time.perf_counter()
        if self._settings.in_band:
            with self._observing:
                self._in_band.observe(decoded.counters, decoded.inventory)
        namer = self._namers[worker]
        named = replace(
            decoded,
            flows=[namer.flows(batch) for batch in decoded.flows],
            drops=[namer.drops(batch) for batch in decoded.drops],
            counters=[namer.counters(batch) for batch in decoded.counters],
            inventory=[],
        )
        self._seconds.inc(time.perf_counter() - began)
        return named

    def name_probes(self, rows: pa.RecordBatch, /) -> pa.RecordBatch:
        """Return rows of `probes` with the columns that name both ends.  Blocks; for any thread."""
        return ends.name_ends(rows, self._namers[0].snapshot, int(self._settings.grace_seconds * 1e6))

    def health(self) -> dict[str, dict[str, Any]]:
        """Return the state of each source, for /health."""
        return {
            follower.source.name: {
                "up": not follower.problem,
                "age_seconds": None if (age := follower.age_seconds()) is None else round(age, 1),
                "interfaces": follower.interfaces,
                "error": follower.problem,
            }
            for follower in self._followers
        }

    async def _deliver(self, follower: SourcePoller, report: Report, at_us: int) -> None:
        """Enter a source's report into the history, and pass its counters to the store."""
        counters = await self._bridge.call(INVENTORY_THREAD, self._apply, follower, report, at_us)
        if counters is not None:
            self._sink.offer("interface_counters", counters)
        self._dirty.set()

    def _apply(self, follower: SourcePoller, report: Report, at_us: int) -> pa.RecordBatch | None:
        self._history.apply(
            follower.source.name, follower.source.rank, report.interfaces, report.hosts, at_us, report.changed_us
        )
        if report.counters is None or not report.counters.num_rows:
            return None
        self._build()
        self._counter_namer.snapshot = self._namers[0].snapshot
        host = self._history.host_name(report.hosts[0].name) if len(report.hosts) == 1 else ""
        return self._counter_namer.counters(report.counters, host)

    async def _rebuild(self) -> None:
        """Rebuild the snapshot once it is out of date."""
        await asyncio.sleep(max(REBUILD_SECONDS, IDLE_SHARE * self._build_seconds))
        await self._dirty.wait()
        self._dirty.clear()
        await self._bridge.call(INVENTORY_THREAD, self._build)

    def _build(self) -> None:
        """Rebuild the snapshot if anything has changed."""
        if self._history.changed:
            began = time.monotonic()
            snapshot = build(self._history.columns, self._history.addresses())
            for namer in self._namers:
                namer.snapshot = snapshot
            self._history.changed = False
            self._build_seconds = time.monotonic() - began

    async def _tick(self) -> None:
        """Do the periodic work that is due."""
        await asyncio.sleep(TICK_SECONDS)
        if await self._bridge.call(INVENTORY_THREAD, self._learn):
            self._dirty.set()
        now = time.monotonic()
        every = now >= self._next_write
        if every:
            self._next_write = now + self._settings.write_seconds
        self._sink_rows(await self._bridge.call(INVENTORY_THREAD, self._rows, every=every))
        if now >= self._next_count:
            self._next_count = now + COUNT_SECONDS
            await self._bridge.call(INVENTORY_THREAD, self._count)
        self._advance()

    def _learn(self) -> bool:
        """Take over what exporters stated of themselves; return whether it was new."""
        began, now = time.monotonic(), self._clock_us()
        if began < self._next_learn:
            return False
        known = self._history.addresses(better_than=Rank.SFLOW)
        if not self._in_band.take(now) and known == self._known:
            return False
        self._known = known
        vms, hosts = self._in_band.vms(known)
        self._history.apply("sFlow host structures", Rank.SFLOW, vms, hosts, now)
        self._learn_ports(now)
        self._next_learn = time.monotonic() + IDLE_SHARE * (time.monotonic() - began)
        return True

    def _learn_ports(self, now: int) -> None:
        interfaces, hosts = self._in_band.ports(self._history.addresses(better_than=Rank.INTERFACE_NAME))
        self._history.apply("interface names", Rank.INTERFACE_NAME, interfaces, hosts, now)

    def _rows(self, *, every: bool) -> pa.RecordBatch | None:
        """Return the rows of table `inventory` that are due: what changed, or everything that holds."""
        changed, self._history.to_write = self._history.to_write, []
        intervals = list({id(interval): interval for interval in changed}.values())
        if every:
            held = [interval for interval in self._history.intervals() if interval.row >= 0]
            holding = {id(interval) for interval in held}
            intervals = [interval for interval in intervals if id(interval) not in holding] + held
        return inventory_rows(self._history, intervals, self._agents()) if intervals else None

    def _agents(self) -> dict[str, Address]:
        agents: dict[str, Address] = {}
        for address, host in self._history.addresses().items():
            agents.setdefault(host, address)
        return agents

    def _count(self) -> None:
        """Count what is known now, for the metrics."""
        of_vms = [i.placement for i in self._history.intervals() if i.placement.interface.mac]
        self._interfaces = len(of_vms)
        self._vms = len({p.interface.vm_uuid.int or p.interface.vm for p in of_vms})
        self._conflicts = sum(bool(placement.conflict) for placement in of_vms)

    def _sink_rows(self, rows: pa.RecordBatch | None) -> None:
        if rows is not None:
            self._sink.offer("inventory", rows)

    def _advance(self) -> None:
        """Update the metrics."""
        for follower in self._followers:
            name = follower.source.name
            age = follower.age_seconds()
            self._up.labels(name).set(not follower.problem)
            self._age.labels(name).set(-1 if age is None else age)
            self._stated.labels(name).set(follower.interfaces)
            self._problems.labels(name).inc(follower.problems - self._problems_before.get(name, 0))
            self._problems_before[name] = follower.problems
        left_out = self._history.left_out + self._in_band.left_out
        self._left_out.inc(left_out - self._left_out_before)
        self._left_out_before = left_out
        now_cleaned = cleaned()
        self._cleaned.inc(now_cleaned - self._cleaned_before)
        self._cleaned_before = now_cleaned
        labels = [("yes",), ("no",)]
        totals = np.sum([namer.totals[[N_NAMED, N_UNNAMED]] for namer in self._namers], axis=0)
        self._totals[0].advance(labels, totals[:, 0])
        self._totals[1].advance(labels, totals[:, 1])
        foreign = int(sum(namer.totals[N_FOREIGN, 0] for namer in self._namers))
        self._foreign.inc(foreign - self._foreign_before)
        self._foreign_before = foreign
        sightings = np.sum([namer.sightings for namer in self._namers], axis=0)
        self._totals[2].advance([(name,) for name in FLOWS["sighting"].names], sightings)


async def _for_ever(step: Callable[[], Awaitable[None]]) -> None:
    """Repeat a step until cancelled: a defect must not end what keeps the inventory fresh."""
    while True:
        try:
            await step()
        except Exception:  # noqa: BLE001 - see above
            _log.exception("the inventory failed: tried again", step=step.__name__)
