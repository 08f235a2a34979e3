"""The decode stage: takes datagrams from the inbox, has the workers decode and name them, and passes the rows on.

What decoding must keep over a restart, the templates and sampler rates of all workers, is in one file.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv6Network, ip_network
from pathlib import Path
from typing import Self, cast

import numpy as np
import pyarrow as pa

from collector.decode.exporter_stats import (
    PROTOCOL_BY_VERSION,
    Findings,
    OwnLoss,
    StreamMetrics,
    StreamReporter,
    Waiting,
    no_findings,
)
from collector.decode.gaps import ALL, Gap, Gaps, OwnGaps, Stream, rows_of
from collector.decode.inbox import Inbox
from collector.decode.settings import DecodeSettings, mapped
from collector.decode.workers import Workers, count_of, worker_of
from collector.interfaces import Clock, Enricher, Sink, Watched
from collector.log import get_log
from collector.metrics import Metrics
from collector.stopping import cancel
from collector.threads import Bridge
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.jit import progress, waiting
from decoders.limits import Limits
from decoders.memory import BLOCKS
from decoders.overrides import ExporterRule
from decoders.sessions import S_DATAGRAMS
from decoders.shared import Decoded
from schemas.exporters import EXPORTERS
from schemas.gaps import GAPS

MAX_STATE_BYTES = 256 * 2**20
"""A larger file was not written by this service: 65,536 templates of 1,000 fields take less."""

_log = get_log("decode")


def save_state(decoders: Sequence[Decoder], path: Path) -> None:
    """Write the decoders' state if it changed since the last write; all of it or nothing (rename).

    A full or read-only disk is logged, not raised: the collector works without the file.
    """
    changed = [decoder.changed_state() for decoder in decoders]
    if not any(changed):
        return
    state = changed[0] if len(decoders) == 1 else _whole(decoders)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(state or b"")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        _log.sampled("templates not saved", key=str(path), error=str(error))


def load_state(decoders: Sequence[Decoder], path: Path) -> None:
    """Read what `save_state` wrote, for as many decoders as there were.  A missing file is no problem; a damaged one is
    logged and ignored."""
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise ValueError(f"larger than {MAX_STATE_BYTES} octets")
        path.chmod(0o600)  # former releases left it to the umask
        state = path.read_bytes()
        shares = [state] if len(decoders) == 1 else _shares(json.loads(state), len(decoders))
        for decoder, share in zip(decoders, shares, strict=True):
            decoder.load_state(share)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        _log.warning("templates not loaded; exporters will announce them again", file=str(path), error=str(error))


def _whole(decoders: Sequence[Decoder]) -> bytes:
    """Return the state of all decoders as that of one."""
    states = [decoder.sets.export_state() for decoder in decoders]
    sessions = [session for state in states for session in cast("list[object]", state["sessions"])]
    return json.dumps({**states[0], "sessions": sessions}, separators=(",", ":")).encode()


def _shares(state: object, count: int) -> list[bytes]:
    """Return the part of each decoder: the streams of the senders assigned to it.  What is malformed goes to the first
    one, which refuses it."""
    sessions = state.get("sessions") if isinstance(state, dict) else None
    if not isinstance(state, dict) or not isinstance(sessions, list):
        raise ValueError("not saved templates")
    shares: list[list[object]] = [[] for _ in range(count)]
    for session in sessions:
        try:
            number = int(worker_of(np.array([session["key"][:2]], np.uint64), count)[0])
        except (TypeError, KeyError, IndexError, ValueError, OverflowError):
            number = 0
        shares[number].append(session)
    return [json.dumps({**state, "sessions": share}).encode() for share in shares]


VERSIONS: dict[str | None, int] = {None: 0} | {
    EXPORTERS["protocol"].names[number]: version for version, number in PROTOCOL_BY_VERSION.items()
}
"""Name of a protocol → version in the key of its streams."""

SLOW_START_SECONDS = 2.0
"""A start whose kernels take longer is logged: the machine is busy, or the compilers failed."""

PROGRESS_SECONDS = 10.0
"""How often such a start logs its progress."""

INBOX_CHECK_SECONDS = 0.05
"""How often the inbox is checked while waiting for names: 1 Gbit/s fills a tenth of it meanwhile."""

INBOX_SHARE = 4
"""A batch is at most one part in this of the inbox: the inbox must not drop what a batch waits for."""

UNCOMPILED_DATAGRAMS = 16
"""Datagrams per batch while kernels run uncompiled: machine code that comes meanwhile is used a second later."""

UNCOMPILED_STOP_SECONDS = 3.0
"""How long a stop decodes what is left by uncompiled kernels; the rest is counted as dropped."""

LISTENS_US = 1_000_000
"""Sockets are opened at the latest this long after the pipeline was entered."""

METRICS_SECONDS = 1.0
"""How often the metrics of exporter streams are updated."""

TEMPLATES_FULL_SECONDS = 600
"""How long /health reports that templates were dropped for lack of room: exporters repeat theirs within that time."""


def rules_of(settings: DecodeSettings) -> tuple[ExporterRule, ...]:
    """Return the decoder's rules: who may export, and what is known of single exporters."""
    known = tuple(
        ExporterRule(
            network, _allowed(settings, network), entry.sampling_rate, VERSIONS[entry.protocol], entry.one_port
        )
        for entry in settings.exporters
        for network in [mapped(entry.network)]
    )
    if not settings.allow:
        return known
    everybody = ExporterRule(IPv6Network("::/0"), allowed=False)
    return (*known, *(ExporterRule(mapped(network)) for network in settings.allow), everybody)


def _allowed(settings: DecodeSettings, network: IPv6Network) -> bool:
    return not settings.allow or any(network.subnet_of(mapped(allowed)) for allowed in settings.allow)


class DecodeStage:
    """The stage that decodes what the listener offers and passes the rows to the sink.

    Entering does not wait for the kernels to be compiled: datagrams queue meanwhile, and `ready` is set when it is
    done.
    """

    def __init__(
        self,
        settings: DecodeSettings,
        metrics: Metrics,
        bridge: Bridge,
        sink: Sink,
        enricher: Enricher,
        *,
        clock_us: Clock,
        own_loss: Callable[[], OwnLoss],
        state_file: Path | None,
        alive_file: Path | None = None,
        watched: Callable[[], tuple[int, int]] = lambda: (0, 0),
        findings: Findings = no_findings,
    ) -> None:
        """`own_loss` returns the collector's own losses so far.  `state_file` keeps templates over a restart;
        `alive_file` keeps until when the service ran and what it has `watched` (see `OwnGaps`).

        `findings` returns what the exporter doctor knows of a stream.
        """
        self._settings = settings
        self._metrics = metrics
        self._sink = sink
        self._enricher = enricher
        self._clock_us = clock_us
        self._own_loss = own_loss
        self._state_file = state_file
        self._findings = findings
        self.inbox = Inbox(settings.inbox_bytes)
        self.ready = asyncio.Event()
        """Set once the kernels are compiled and datagrams are being decoded."""
        self._declare(metrics)
        self._workers = Workers(count_of(settings.decode_workers), bridge, enricher, self._unnamed.inc)
        self._preparing: asyncio.Task[None] | None = None
        self._prepared = threading.Event()
        self._own_gaps = OwnGaps(alive_file, watched)
        self._listening_us = 0
        self._closed = math.inf
        """When the stop began, by the monotonic clock."""
        self._at_work_us = 0
        self.reach_us = self._own_gaps.reach_us
        """How long before their receipt all but few flow records begin."""

    def _declare(self, metrics: Metrics) -> None:
        inbox = self.inbox
        metrics.gauge("inbox_bytes", "Octets of datagrams waiting to be decoded.").set_function(lambda: inbox.octets)
        self._dropped = metrics.counter(
            "inbox_dropped_datagrams_total", "Datagrams dropped because the inbox was full."
        )
        self._decode_seconds = metrics.counter("decode_seconds_total", "Time spent in decoding and naming.")
        self._unnamed = metrics.counter("unnamed_rows_total", "Flow rows without names for a defect of our own.")
        self._forgotten = metrics.counter(
            "exporter_streams_forgotten_total",
            "Streams that had to go for want of room, by kind: an exporter gave records, a stranger never did.",
            ("kind",),
        )
        self._forgotten_before = {"stranger": 0, "exporter": 0}
        self._templates_forgotten = metrics.counter(
            "templates_forgotten_total",
            "Templates forgotten by age, or for want of room; these may have been refused, too.",
            ("cause",),
        )
        self._templates_before = {"age": 0, "room": 0}
        self._templates_full = float(-TEMPLATES_FULL_SECONDS)
        self._sources_forgotten = metrics.counter(
            "sflow_sources_forgotten_total",
            "sFlow data sources that had to go for want of room: the next sample of each shows no loss.",
        )
        self._sources_before = 0
        self._decoded = metrics.counter("decoded_rows_total", "Rows decoded, by table.", ("table",))
        self._continued = metrics.counter(
            "continued_records_total", "Flow records that go on with a flow: they begin where its last record ended."
        )
        self._flows_forgotten = metrics.counter(
            "continued_flows_forgotten_total",
            "Long flows whose last record was forgotten for others: the next one smears over more windows.",
        )
        self._gaps_reported = metrics.counter(
            "watch_gaps_total",
            "Times in which a stream, or the service, did not report all packets: rows of table gaps.",
            ("reason",),
        )
        for reason in GAPS["reason"].names:
            self._gaps_reported.labels(reason)
        metrics.gauge(
            "record_reach_seconds", "How long before its receipt a flow record begins: windows close that much later."
        ).set_function(lambda: self.reach_us / 1_000_000)

    async def __aenter__(self) -> Self:
        self._listening_us = self._clock_us() + LISTENS_US
        for one in self._workers.continued:
            one.since_us = self._clock_us()
        self._task = asyncio.create_task(self._run(), name="decode")
        return self

    async def __aexit__(self, *error: object) -> None:
        self.inbox.close()
        self._closed = time.monotonic()
        if not self.ready.is_set() and not self._task.done():
            # A compiler cannot be interrupted, and a stop must not take minutes.
            _log.warning("stopped before decoding began", datagrams_lost=len(self.inbox))
            await cancel(self._task)
            return
        await self._task

    @property
    def former(self) -> Watched | None:
        """What the previous run watched; None: not known."""
        return self._own_gaps.former

    def prepare(self, *before: Callable[[], None]) -> asyncio.Task[None]:
        """Begin to load the kernels, once the bridge runs; entering does so if it has not been done.

        It takes as long as opening the store, so both run at the same time.  `before` are called first, on the same
        thread: kernels that another stage needs sooner.  `wait` raises what fails.
        """
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._workers.alone(self._prepare, before), name="kernels")
            # The start may fail for another reason first, and then the outcome is not retrieved.
            self._preparing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._preparing

    def abandon(self) -> None:
        """Let the bridge stop without waiting for the kernels, if they are not ready: compiling takes minutes."""
        if self._preparing is not None and not self._prepared.is_set():
            self._workers.abandon()

    async def wait(self) -> None:
        """Wait for the end of the decode loop.  Raise what ended it, if it was not `__aexit__`."""
        await asyncio.shield(self._task)

    async def _run(self) -> None:
        """Compile or load the kernels while the inbox fills, then decode until the inbox is closed and empty."""
        started = time.monotonic()
        note = asyncio.create_task(self._note_slow_start())
        try:
            await self.prepare()
        finally:
            note.cancel()
        _log.info("decoders ready", seconds=round(time.monotonic() - started, 2))
        await self._names_first()
        self.ready.set()
        if (away := self._own_gaps.away(self._listening_us)) is not None:
            self._report_gaps([(ALL, away)])
        tick = asyncio.create_task(self._tick())
        try:
            await self._work()
        finally:
            await cancel(tick)
        await self._report()
        await self._save()

    async def _names_first(self) -> None:
        """Wait for the enricher's first answers, but not so long that datagrams are lost."""
        answers = asyncio.create_task(self._enricher.first_answers())
        try:
            while not answers.done() and self.inbox.octets < self.inbox.limit_bytes // 2:
                await asyncio.wait({answers}, timeout=INBOX_CHECK_SECONDS)
            if answers.done():
                await answers
            else:
                _log.warning("decoding starts before the inventory is known: the inbox fills")
        finally:
            answers.cancel()

    def offer(self, datagrams: Datagrams, /) -> bool:
        """Queue datagrams for decoding; return False if some found no room: these are dropped and counted."""
        dropped = self.inbox.offer(datagrams)
        if dropped:
            self._dropped.inc(dropped)
        return not dropped

    @property
    def templates_full(self) -> bool:
        """Whether templates were evicted for others within the last ten minutes."""
        return time.monotonic() - self._templates_full < TEMPLATES_FULL_SECONDS

    @property
    def oldest_us(self) -> int:
        """When the first datagram that is not decoded yet was received, µs since 1970; 0 if there is none.

        While kernels are compiled, that may be minutes ago.
        """
        return self._at_work_us or self.inbox.oldest_us

    @property
    def waiting(self) -> Waiting:
        """Data that waits for its template, as of the last second."""
        return self._stream_metrics.waiting if self._prepared.is_set() else Waiting()

    def room(self, octets: int) -> bool:
        """Return whether the inbox takes this many octets more with half of it still left for UDP, which cannot
        wait."""
        return self.inbox.octets + octets <= self.inbox.limit_bytes // 2

    def allows(self, address: str) -> bool:
        """Return whether the settings allow this address to export."""
        parsed = mapped(ip_network(address))
        return not self._settings.allow or any(parsed.subnet_of(mapped(network)) for network in self._settings.allow)

    def reload(self, settings: DecodeSettings) -> None:
        """Apply the new settings of who may export and what is known of exporters; the others need a restart."""
        self._settings = settings
        self._workers.replace_rules(rules_of(settings))

    def _prepare(self, before: Sequence[Callable[[], None]]) -> None:
        for function in (*before, self.inbox.warm):
            function()
        self._workers.prepare(self._decoder)
        decoders = self._workers.decoders
        if self._state_file is not None:
            load_state(decoders, self._state_file)
        self._reporters = [
            StreamReporter(decoder.shared.sessions, decoder.sets.templates.table, self._findings)
            for decoder in decoders
        ]
        self._gaps = [Gaps(decoder.shared.sessions) for decoder in decoders]
        self._make_report(OwnLoss())
        held = [decoder.sets.held for decoder in decoders]
        self._stream_metrics = StreamMetrics([decoder.shared.sessions for decoder in decoders], self._metrics, held)
        self._prepared.set()

    def _decoder(self) -> Decoder:
        return Decoder(
            Limits(template_seconds=self._settings.template_lifetime_seconds),
            rules_of(self._settings),
            port_in_key=not self._settings.share_templates_between_ports,
            domain_in_key=not self._settings.share_templates_between_domains,
        )

    async def _note_slow_start(self) -> None:
        await asyncio.sleep(SLOW_START_SECONDS)
        _log.info("decoding has not begun yet: kernels are loaded; sockets buffer meanwhile")
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            ready, all_of_them = progress()
            _log.info("loading", kernels_ready=ready, kernels=all_of_them, inbox_bytes=self.inbox.octets)

    async def _work(self) -> None:
        while (datagrams := await self._next()) is not None:
            self._at_work_us = int(datagrams.time_received_us[0])
            begin = 0
            while begin < len(datagrams):
                if self._too_late():
                    return self._give_up(len(datagrams) - begin)
                part = datagrams
                if waiting():
                    part = datagrams.those(slice(begin, begin + UNCOMPILED_DATAGRAMS))
                elif begin:
                    part = datagrams.those(slice(begin, None))
                begin += len(part)
                await self._decode(part)
            self._at_work_us = 0

    async def _decode(self, datagrams: Datagrams) -> None:
        started = time.perf_counter()
        parts = await self._workers.decode(datagrams)
        self._decode_seconds.inc(time.perf_counter() - started)
        for decoded in parts:
            self._hand_on(decoded)
        await self._sink.ready()

    def _too_late(self) -> bool:
        """Return whether a stop would wait too long for kernels that run uncompiled."""
        return waiting() and time.monotonic() > self._closed + UNCOMPILED_STOP_SECONDS

    def _give_up(self, datagrams: int) -> None:
        lost = datagrams + len(self.inbox)
        self._dropped.inc(lost)
        _log.warning("stopped while the kernels were compiled", datagrams_lost=lost)

    async def _next(self) -> Datagrams | None:
        octets = min(self._settings.batch_bytes * self._workers.count, self.inbox.limit_bytes // INBOX_SHARE)
        return await self.inbox.take(octets, self._settings.gather_milliseconds / 1000)

    def _hand_on(self, decoded: Decoded) -> None:
        for table, batches in (
            ("flows", decoded.flows),
            ("interface_counters", decoded.counters),
            ("drops", decoded.drops),
            ("inventory", decoded.inventory),
        ):
            for batch in batches:
                self._offer_rows(table, batch)

    def _offer_rows(self, table: str, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._decoded.labels(table).inc(batch.num_rows)
            self._sink.offer(table, batch)

    async def _tick(self) -> None:
        next_report = next_save = time.monotonic()
        next_report += self._settings.report_seconds
        while True:
            await asyncio.sleep(METRICS_SECONDS)
            await self._workers.alone(self._advance)
            await self._workers.alone(self._look_back)
            self._report_gaps(await self._workers.alone(self._find_gaps, self._own_loss()))
            await self._workers.alone(BLOCKS.trim)  # freeing hundreds of MiB takes too long for the event loop
            now = time.monotonic()
            if now >= next_report:
                next_report = now + self._settings.report_seconds
                await self._report()
            if now >= next_save:
                next_save = now + self._settings.template_save_seconds
                await self._save()

    def _look_back(self) -> None:
        """Update how far records reach back."""
        continued = self._workers.continued
        self.reach_us = max(one.reach_us() for one in continued)
        # What caches hold from before the start reaches as far back as it did in the previous run.
        if self._clock_us() < self._listening_us + self._own_gaps.reach_us:
            self.reach_us = max(self.reach_us, self._own_gaps.reach_us)
        for one in continued:
            one.fade()
            for counter, count in zip((self._continued, self._flows_forgotten), one.counts, strict=True):
                counter.inc(int(count))
            one.counts[:] = 0

    def _find_gaps(self, own: OwnLoss) -> list[tuple[Stream, Gap]]:
        """Return the gaps since the last look."""
        now, reach = self._clock_us(), self.reach_us
        found = [gap for gaps in self._gaps for gap in gaps.look(now, reach)]
        dropped = self._own_gaps.look(now, reach, own, self._datagrams())
        return found if dropped is None else [*found, (ALL, dropped)]

    def _datagrams(self) -> int:
        """Datagrams decoded so far."""
        return sum(
            int(decoder.shared.sessions.stats[:, S_DATAGRAMS].sum() + decoder.shared.sessions.gone_stats[S_DATAGRAMS])
            for decoder in self._workers.decoders
        )

    def _report_gaps(self, gaps: list[tuple[Stream, Gap]]) -> None:
        """Store gaps before their windows close."""
        if gaps:
            for _, gap in gaps:
                self._gaps_reported.labels(gap.reason).inc()
            self._offer_rows("gaps", rows_of(gaps))

    async def _report(self) -> None:
        await self._workers.alone(self._advance)
        for rows in await self._workers.alone(self._make_report, self._own_loss()):
            self._offer_rows("exporters", rows)

    def _advance(self) -> None:
        """Update the metrics of exporter streams.  Runs on a worker's thread."""
        self._stream_metrics.advance(self._clock_us())
        decoders = self._workers.decoders
        now = {
            "stranger": sum(decoder.forgotten_strangers for decoder in decoders),
            "exporter": sum(decoder.forgotten_exporters for decoder in decoders),
        }
        for kind, count in now.items():
            if grown := count - self._forgotten_before[kind]:
                self._forgotten.labels(kind).inc(grown)
                _log.sampled(
                    "more senders than there is room for: name your exporters in decode.allow",
                    key=kind,
                    streams_forgotten=grown,
                )
        self._forgotten_before = now
        sources = sum(decoder.forgotten_sources for decoder in decoders)
        self._sources_forgotten.inc(sources - self._sources_before)
        self._sources_before = sources
        stores = [decoder.sets.templates for decoder in decoders]
        templates = {"age": sum(one.aged for one in stores), "room": sum(one.displaced for one in stores)}
        for cause, count in templates.items():
            self._templates_forgotten.labels(cause).inc(count - self._templates_before[cause])
        if grown := templates["room"] - self._templates_before["room"]:
            self._templates_full = time.monotonic()
            _log.sampled(
                "more templates than there is room for: data of those that had to go is held, then lost; "
                "vmflow exporters shows who has how many",
                templates_forgotten=grown,
            )
        self._templates_before = templates

    def _make_report(self, own: OwnLoss) -> list[pa.RecordBatch]:
        """Return rows of table `exporters` by worker; the first one reports the collector's own losses."""
        now = self._clock_us()
        reports = [
            reporter.report(now, own if number == 0 else None) for number, reporter in enumerate(self._reporters)
        ]
        return [rows for rows in reports if rows is not None]

    async def _save(self) -> None:
        if self._state_file is not None:
            await self._workers.alone(save_state, self._workers.decoders, self._state_file)
