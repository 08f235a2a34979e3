"""The service: the only module that knows every stage.  Stages start from the end of the data path, and stop in
reverse.

While the service runs, settings are reloaded on a thread, since files and pydantic take a tenth of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from collector.alert.api import AlertApi
from collector.alert.evaluate import LEARNED
from collector.alert.stage import Alerts
from collector.alert.trial import WAIT_SECONDS, Trials
from collector.analyze.doctor import Doctor
from collector.analyze.figures import Figures
from collector.analyze.traffic import Traffic
from collector.analyze.windows import Windows
from collector.decode.exporter_stats import OwnLoss
from collector.decode.stage import DecodeStage
from collector.decode.workers import count_of, stages
from collector.http.gate import Entrance
from collector.http.settings import AccessError
from collector.interfaces import AlertNotification, Call, Component, NotificationGroup
from collector.inventory.sources.registry import threads
from collector.inventory.stage import InventoryStage
from collector.listen.tcp import StreamListener
from collector.listen.udp import Listener, OpenSockets, wall_clock_us
from collector.log import get_log
from collector.metrics import Metrics
from collector.notify.actions import Actions
from collector.notify.actions import threads as action_threads
from collector.notify.launcher import Launcher
from collector.notify.stage import NotifyStage
from collector.notify.stage import threads as delivery_threads
from collector.probe import intake
from collector.process import startup
from collector.process.compilers import Compilers
from collector.process.confine import UNCONFINED, Confinement
from collector.process.descriptors import Connections
from collector.rollup.groups import connection_key
from collector.rollup.stage import Rollups
from collector.settings import InvalidSettingsError, Settings
from collector.sql.endpoint import SqlEndpoint
from collector.sql.endpoint import threads as query_threads
from collector.stopping import Stop, cancel
from collector.store.client import take_directory
from collector.store.errors import Patience
from collector.store.lease import Lease
from collector.store.native import insert
from collector.store.writer import INSERT_SETTINGS, Writer
from collector.store_reader import Reader
from collector.threads import Bridge, LoopLag
from collector.version import ENGINE, VERSION
from collector.web import questions
from collector.web.events import Events
from collector.web.queries import ANSWER_SECONDS, BOUNDS
from collector.web.server import Web
from schemas.flows import FLOWS
from schemas.gaps import GAPS
from schemas.probes import PROBES

_log = get_log("app")


class Reloads:
    """Reloading on request, one at a time.  However many requests come meanwhile, exactly one more reload follows.

    `read` blocks and is called on a thread through `call`; it returns a function that applies what was read, on the
    event loop.
    """

    def __init__(self, read: Callable[[], Callable[[], None]], call: Call) -> None:
        self._read = read
        self._call = call
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Reload soon; what is read is newer than this call.  For the event loop's thread."""
        self._asked.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="reloads")
        return self

    async def __aexit__(self, *error: object) -> None:
        await cancel(self._task)

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                take_over = await self._call(self._read)
                take_over()
            except Exception:  # noqa: BLE001 - the next one may succeed
                _log.exception("settings not reloaded: a defect of ours")


STORE = "store"
LEASE = "lease"
SPOOL = "spool"
QUERY = "query"
CANCEL = "cancel"
SUM = "sum"
ROLLUP = "rollup"
ANALYZE = "analyze"
DOCTOR = "doctor"
TRAFFIC = "traffic"
FIGURES = "figures"
ALERT = "alert"
NOTIFY = "notify"
ACTIONS = "actions"
READ = "read"
LOGIN = "login"
API = "api"
API_THREADS = 2
CONSOLE = "console"
TRIAL = "trial"
PROBE = "probe"
PROBE_READ = "probe-read"
LISTEN = "listen"
RELOAD = "reload"
KERNELS = "kernels"

FIXED = ("listen", "inventory", "store", "sql", "rollup", "analyze", "alerts", "notify", "web", "access", "confine")
"""Sections of the settings that need a restart."""

STOP_SECONDS = 15.0
"""Deadline of a stop, whatever is running; the systemd unit waits 60 s before it kills."""
EXIT_SECONDS = 1.0
"""Part of it kept for the end of the event loop and of Python."""
STORE_STOP_SECONDS = 8.0
"""Part of it kept for the store and the sums: all other stages have ended or are cut off before."""
SUMS_STOP_SECONDS = 2.0
"""Part of that kept for the sums; rows whose sums are not stored are read back at the next start."""
LEAST_STOP_SECONDS = 0.5
"""Minimum for each component, however late it is; most need less."""
BRIDGE_STOP_SECONDS = 0.5
"""Part of that kept for threads."""


class Service:
    """One collector.  `run` returns when asked to stop, and raises what kept it from starting."""

    def __init__(
        self,
        settings: Settings,
        reload: Callable[[], Settings],
        confinement: Confinement = UNCONFINED,
        launcher: Launcher | None = None,
        connections: Connections | None = None,
        compilers: Compilers | None = None,
    ) -> None:
        """`confinement` is what the process is confined to by now; `launcher` and `compilers` were started before."""
        connections = connections or Connections()
        self.settings = settings
        self.confinement = confinement
        self._reload = reload
        self.stopping = asyncio.Event()
        self.stop = Stop(STOP_SECONDS - EXIT_SECONDS)
        self._began = time.monotonic()
        self.metrics = Metrics(exporters_labelled=settings.decode.exporter_labels)
        self.metrics.gauge(
            "confined", "Version of Landlock that confines the process to what its settings name; 0: it is not."
        ).set(confinement.abi)
        self.metrics.describe(version=VERSION, engine=ENGINE, python=platform.python_version())
        workers = count_of(settings.decode.decode_workers)
        names = (
            STORE, LEASE, SPOOL, CANCEL, SUM, ROLLUP, ANALYZE, DOCTOR, TRAFFIC, FIGURES, ALERT, READ, LOGIN, LISTEN,
            RELOAD, KERNELS, TRIAL, PROBE, PROBE_READ,
        )  # fmt: skip
        single = dict.fromkeys((*stages(workers), *names), 1)
        self.bridge = Bridge(
            single
            | {QUERY: query_threads(settings.sql), API: API_THREADS, CONSOLE: questions.AT_ONCE}
            | threads(settings.inventory)
            | {NOTIFY: delivery_threads(settings.notify), ACTIONS: action_threads(settings.notify)},
            STOP_SECONDS,
        )
        for stage in (QUERY, CANCEL, LEASE, KERNELS, FIGURES, TRIAL, PROBE_READ):
            self.bridge.abandon(stage)
        self.reloads = Reloads(self._read_again, partial(self.bridge.call, RELOAD))
        self.kernels = (compilers or Compilers()).component(partial(self.bridge.call, KERNELS))
        self.lease = Lease(settings.store, self.metrics, partial(self.bridge.call, LEASE))
        connect = partial(self.lease.connect, INSERT_SETTINGS)
        self.windows = Windows(
            settings.analyze,
            self.metrics,
            partial(self.bridge.call, ANALYZE),
            connect,
            clock_us=wall_clock_us,
            waiting=self._waiting,
            reach_us=lambda: self.decode.reach_us,
            former=lambda: self.decode.former,
        )
        self.notify = NotifyStage(
            settings.notify,
            self.metrics,
            partial(self.bridge.call, NOTIFY),
            on_delivered=self._delivered,
        )
        self.events = Events()
        self.alerts: Alerts = Alerts(
            settings.alerts,
            self.metrics,
            partial(self.bridge.call, ALERT),
            connect,
            self.notify,
            clock_us=wall_clock_us,
            remember=self.notify.remember,
            on_notification=self._notified,
            own=self._own_measures,
            learned=settings.store.spool / LEARNED,
        )
        trials = Reader(partial(self.bridge.call, TRIAL), connect, BOUNDS, wait_seconds=WAIT_SECONDS)
        alert_api = AlertApi(self.alerts, settings.alerts.active(), Trials(settings.alerts, trials))
        reader = Reader(partial(self.bridge.call, READ), connect, BOUNDS, wait_seconds=ANSWER_SECONDS)
        console = Reader(
            partial(self.bridge.call, CONSOLE),
            connect,
            questions.BOUNDS,
            at_once=questions.AT_ONCE,
            wait_seconds=questions.ANSWER_SECONDS,
        )
        self.windows.subscribe("alert", self.alerts.window_closed)
        self.windows.subscribe("console", self.events.window_closed)
        self.doctor = Doctor(
            settings.analyze, self.metrics, partial(self.bridge.call, DOCTOR), connect, clock_us=wall_clock_us
        )
        self.traffic = Traffic(
            settings.analyze,
            self.metrics,
            partial(self.bridge.call, TRAFFIC),
            connect,
            clock_us=wall_clock_us,
            settle_seconds=settings.alerts.settle_seconds,
        )
        self.windows.subscribe("traffic", self.traffic.window_closed)
        self.figures = Figures(
            settings.analyze,
            self.metrics,
            partial(self.bridge.call, FIGURES),
            connect,
            clock_us=wall_clock_us,
            settle_seconds=settings.alerts.settle_seconds,
        )
        self.windows.subscribe("figures", self.figures.window_closed)
        self.windows.subscribe_late(self.figures.late)
        self.rollups = Rollups(
            settings.rollup,
            self.metrics,
            partial(self.bridge.call, SUM),
            partial(self.bridge.call, ROLLUP),
            connect,
            insert,
            Patience().again,
            self.windows.observe,
            lateness_seconds=settings.analyze.lateness_seconds,
            idle_seconds=settings.analyze.idle_seconds,
            clock_us=wall_clock_us,
            key=connection_key(settings.rollup.key_file or settings.store.spool.parent / "rollup.key"),
        )
        rollup = self.rollups if settings.rollup.enabled else None
        self.writer = Writer(
            settings.store,
            self.metrics,
            partial(self.bridge.call, STORE),
            partial(self.bridge.call, SPOOL),
            rollup,
            self.stop,
            self.lease.claim,
        )
        self.actions = Actions(
            settings.notify,
            self.metrics,
            partial(self.bridge.call, ACTIONS),
            self.writer,
            clock_us=wall_clock_us,
            launcher=launcher,
        )
        self.entrance = Entrance(settings.access, self.metrics, partial(self.bridge.call, LOGIN))
        self.sql = SqlEndpoint(
            settings.sql,
            settings.store,
            self.metrics,
            partial(self.bridge.call, QUERY),
            entrance=self.entrance,
            cancel_call=partial(self.bridge.call, CANCEL),
            connections=connections.sql,
        )
        self.inventory = InventoryStage(
            settings.inventory, self.metrics, self.bridge, self.writer, clock_us=wall_clock_us, workers=workers
        )
        self.decode = DecodeStage(
            settings.decode,
            self.metrics,
            self.bridge,
            self.writer,
            self.inventory,
            clock_us=wall_clock_us,
            own_loss=self._own_loss,
            state_file=template_file(settings),
            alive_file=settings.store.spool / "alive.json",
            watched=self._watched,
            findings=self.doctor.codes,
        )
        self.listener = Listener(
            settings.listen, self.metrics, self.decode.offer, call=partial(self.bridge.call, LISTEN)
        )
        self.streams = StreamListener(
            settings.listen,
            self.metrics,
            self.decode.offer,
            room=self.decode.room,
            allowed=self.decode.allows,
            clock_us=wall_clock_us,
            connections=connections.streams,
        )
        results = intake.Intake(
            self.metrics,
            partial(self.bridge.call, PROBE),
            self.writer,
            self.inventory.name_probes,
            Reader(partial(self.bridge.call, PROBE_READ), connect, intake.BOUNDS).rows,
            lambda: self.writer.waiting(PROBES.name),
            clock_us=wall_clock_us,
        )
        self.web = Web(
            settings.web,
            self.metrics,
            self.health,
            alert_api,
            reader,
            console,
            self.events,
            self.entrance,
            partial(self.bridge.call, API),
            self.sql,
            results,
        )

    async def run(self) -> None:
        """Start all stages, serve until `stopping` is set or a stage fails, then drain and stop."""
        if self.settings.store.directory is not None:
            take_directory(self.settings.store.directory, self.settings.sql)
        async with AsyncExitStack() as up:
            self._handle_signals(up)
            await up.enter_async_context(self.bridge)
            self.decode.prepare(self.listener.warmer())
            up.callback(self._hurry_threads)
            up.callback(self._abandon_compilers)
            await up.enter_async_context(self.reloads)
            for component, reserve_seconds in self._components():
                await up.enter_async_context(Timely(component, self.stop, reserve_seconds))
            self.kernels.begin()
            watch = asyncio.create_task(LoopLag(self.metrics).run())
            up.callback(watch.cancel)
            await self._serve()
            self.stop.begin()
            _log.info("stopping: draining what was received")
        _log.info("stopped")

    def _components(self) -> list[tuple[Component, float]]:
        """Return the components in the order in which they start, after the bridge: consumers before producers.

        With each come the seconds that its end must leave to those that started before it.
        """
        others: tuple[Component, ...] = (
            self.inventory,
            self.actions,
            self.alerts,
            self.notify,
            self.traffic,
            self.figures,
            self.windows,
            self.doctor,
            self.decode,
            self.listener,
            self.streams,
            # The servers stop before anything else: queries take the cores that draining needs.
            Together(self.sql, self.web),
        )
        return [
            (self.kernels, BRIDGE_STOP_SECONDS),
            (self.lease, BRIDGE_STOP_SECONDS),
            # Not before the lease: a second collector on this host would take datagrams of the first one.
            (OpenSockets(self.listener), BRIDGE_STOP_SECONDS),
            (self.rollups, BRIDGE_STOP_SECONDS),
            (self.writer, SUMS_STOP_SECONDS),
            *((component, STORE_STOP_SECONDS) for component in others),
        ]

    async def _serve(self) -> None:
        decoding = asyncio.create_task(self.decode.wait())
        ready = asyncio.create_task(self.decode.ready.wait())
        stopping = asyncio.create_task(self.stopping.wait())
        replaced = asyncio.create_task(self.lease.replaced())
        ends = {decoding, stopping, replaced}
        try:
            await asyncio.wait({ready, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                self._announce()
                await self._load_the_rest(ends)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in (decoding, replaced):
                if end.done():
                    await end
        finally:
            for task in (ready, *ends):
                task.cancel()

    def _hurry_threads(self) -> None:
        """Let the bridge wait for calls under way only as long as the stop may still take."""
        self.stop.begin()
        self.bridge.stop_seconds = max(BRIDGE_STOP_SECONDS, self.stop.left())

    def _ask_to_stop(self) -> None:
        """Stop in order; at a second request, at once: what is not stored goes to the spool."""
        if self.stopping.is_set():
            self.stop.hurry()
        self.stopping.set()

    def _abandon_compilers(self) -> None:
        """If a stop comes before decoding began, do not wait for kernels: no row was decoded or summed yet."""
        self.decode.abandon()
        if not self.decode.ready.is_set():
            self.bridge.abandon(SUM)

    async def _load_the_rest(self, ends: set[asyncio.Task[Any]]) -> None:
        """Load what the start did not wait for, unless one of `ends` comes first."""
        startup.settle()
        loading = asyncio.create_task(self.web.load_api())
        await asyncio.wait({loading, *ends}, return_when=asyncio.FIRST_COMPLETED)
        loading.cancel()
        startup.settle()

    def _announce(self) -> None:
        _log.info(
            "ready",
            listening=" ".join(str(address) for address in self.listener.addresses),
            streams=" ".join(str(address) for address in self.streams.addresses) or "none",
            store=self.settings.store.url,
            sql=self.sql.url or "off",
            web=self.web.url or "off",
        )

    def health(self) -> dict[str, Any]:
        """Return the state of the service, for /health."""
        problem, waiting = self.writer.problem, self.decode.waiting
        full = self.decode.templates_full
        status = "held" if waiting.streams else "templates" if full else "ok"
        if problem is not None:
            status = "store"
        if not self.decode.ready.is_set():
            status = "starting"
        return {
            "status": status,
            "version": VERSION,
            "uptime_seconds": round(time.monotonic() - self._began, 1),
            "store": problem or "ok",
            "held": f"data of {waiting.streams} exporters waits for its templates, for up to {waiting.seconds:.0f} s: "
            "see vmflow exporters --doctor"
            if waiting.streams
            else "ok",
            "templates": "more than there is room for: see vmflow exporters --doctor" if full else "ok",
            "inbox_bytes": self.decode.inbox.octets,
            "store_queue_bytes": self.writer.queue_bytes,
            "spool": self.writer.spool_problem or "ok",
            "spool_bytes": self.writer.spool_bytes,
            "sql": self.sql.problem or "ok",
            "inventory": self.inventory.health(),
            "messages_waiting": self.notify.waiting,
            "confined": self.confinement.summary,
            "replaced_files": self._report_replaced(),
        }

    def _own_measures(self) -> dict[str, float]:
        return {"store_away_seconds": self.writer.away_seconds, "spool_ratio": self.writer.spool_ratio}

    def _own_loss(self) -> OwnLoss:
        return OwnLoss(
            kernel_drops=self.listener.kernel_drops,
            queue_drops=self.decode.inbox.dropped_datagrams + self.writer.dropped_rows,
        )

    def _delivered(self, group: NotificationGroup, receiver: str, ok: bool) -> None:
        """NotifyStage and alerts know each other only here."""
        self.alerts.delivered(group, receiver, ok)

    def _notified(self, notification: AlertNotification) -> None:
        """The same for actions and open pages."""
        self.events.notified(notification)
        if self.settings.notify.actions_enabled:
            self.actions.offer(notification)

    def _waiting(self) -> bool:
        """Return whether this run or the previous one received what no rollup has yet, or has gaps not stored."""
        # What was not watched before the start is reported once decoding begins.
        recovering = not self.decode.ready.is_set() or (self.settings.rollup.enabled and self.rollups.recovering)
        unstored = self.writer.waiting(FLOWS.name) or self.writer.waiting(GAPS.name)
        # What comes all the time, and may hold no flow, must not keep windows open: only what the clock would pass.
        behind = 0 < self.decode.oldest_us < wall_clock_us() - self.settings.analyze.idle_seconds * 1e6
        return behind or unstored or self.rollups.pending or recovering

    def _watched(self) -> tuple[int, int]:
        """Return since when windows are watched, and until when they are judged."""
        closed_us = self.windows.closed_us
        return self.windows.watched_us, self.alerts.judged_us(closed_us) if self.alerts.enabled else closed_us

    def _handle_signals(self, up: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        actions = {signal.SIGTERM: self._ask_to_stop, signal.SIGINT: self._ask_to_stop, signal.SIGHUP: self.reloads.ask}
        for number, action in actions.items():
            with contextlib.suppress(NotImplementedError, RuntimeError):  # not the main thread: tests
                loop.add_signal_handler(number, action)
                up.callback(loop.remove_signal_handler, number)

    def _read_again(self) -> Callable[[], None]:
        """Read settings and certificates again; a mistake changes nothing.  Blocks.

        Returns a function for the event loop's thread that applies what can change while running.
        """
        try:
            settings = self._reload()
        except InvalidSettingsError as error:
            _log.error("settings not reloaded", error=str(error))
            self._report_replaced()
            return lambda: None
        certificates = []
        for servers in (self.entrance, self.streams):
            try:
                certificates.append(servers.read_again())
            except AccessError as error:
                _log.error("certificate not reloaded, the old one stays", error=str(error))
        self._report_replaced()
        fixed = [name for name in FIXED if getattr(settings, name) != getattr(self.settings, name)]
        return partial(self._take_over, settings, certificates, fixed)

    def _report_replaced(self) -> int:
        """Log files that the confined process cannot read any more; return how many there are."""
        replaced = self.confinement.replaced()
        if replaced:
            _log.sampled(
                "files were replaced since the start, and the confined process may not read the new ones: restart it; "
                "a file with a directory of its own may be replaced",
                files=" ".join(replaced),
            )
        return len(replaced)

    def _take_over(self, settings: Settings, certificates: list[Callable[[], None]], fixed: list[str]) -> None:
        self.decode.reload(settings.decode)
        for take_over in certificates:
            take_over()
        _log.info("settings reloaded", needs_restart=",".join(fixed) or "nothing")


class Timely:
    """A component that is cut off when its end would take the time that others need for theirs."""

    def __init__(self, component: Component, stop: Stop, reserve_seconds: float) -> None:
        self._component = component
        self._stop = stop
        self._reserve_seconds = reserve_seconds

    async def __aenter__(self) -> Self:
        await self._component.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stop.begin()
        ending = asyncio.ensure_future(self._component.__aexit__(*error))
        if await self._stop.wait({ending}, reserve_seconds=self._reserve_seconds):
            await asyncio.wait({ending}, timeout=LEAST_STOP_SECONDS)
        if not ending.done():
            _log.error("did not end in time", stage=type(self._component).__name__.lower())
            ending.cancel()
            # No longer: it may be in a call that does not notice the cancellation.
            await asyncio.wait({ending}, timeout=LEAST_STOP_SECONDS)
        else:
            await ending


class Together:
    """Components that end at the same time."""

    def __init__(self, *components: Component) -> None:
        self._components = components

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as up:
            for component in self._components:
                await up.enter_async_context(component)
            up.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*(component.__aexit__(*error) for component in self._components))


def template_file(settings: Settings) -> Path | None:
    """Return where templates are kept: as set, else beside the embedded store; None with a server and no setting."""
    if settings.decode.template_file is not None:
        return settings.decode.template_file
    directory = settings.store.directory
    return directory.parent / "templates.json" if directory is not None else None
