"""The stage: closed windows in, messages out.

    WindowClosed ──► waits until it is settled ──► worker: evaluate, notify, write ──► Outbox
                     bounded, else passed over     one at a time                       each group after its rows

States belong to the worker thread; the event loop never touches them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from clickhouse_connect.driver import Client

from collector.alert.conditions.absent import SEED_WINDOWS
from collector.alert.conditions.base import MASKS
from collector.alert.evaluate import Evaluator, RuleStatus
from collector.alert.notifications import Message, Notifier, Silence, notifications
from collector.alert.scopes import SCOPES
from collector.alert.settings import AlertSettings
from collector.alert.state import SECOND_US, Alert, Change
from collector.alert.store import AlertStore
from collector.interfaces import (
    AlertNotification,
    AlertServiceError,
    Call,
    Clock,
    NotificationGroup,
    OnNotification,
    Opinion,
    Outbox,
    Remember,
    Row,
    WindowClosed,
)
from collector.log import get_log
from collector.metrics import Metrics
from collector.stopping import cancel
from collector.store_errors import first_line
from collector.store_reader import KeptClient
from schemas.rollups import LEVEL_US, LEVELS
from schemas.text import clean

BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
OWN_SECONDS = 10.0
"""Between two evaluations of the service itself: the shortest window."""
LOAD_AGAIN_SECONDS = 5.0
"""After a failed attempt to read the former state: as long as the writer waits between its own attempts, about."""
FINISH_SECONDS = 5.0
"""Longest wait for the last write at a stop, a third of what the service takes for all: what is not written is
sent again after the next start."""
MATCHABLE = frozenset({"rule", "severity", "scope"}).union(*(view.labels for view in SCOPES.values()))

_log = get_log("alert")


@dataclass(frozen=True, slots=True)
class _Delivery:
    message: str
    receiver: str
    state: str


class Alerts:
    """The stage that evaluates rules when windows close.  A component.

    Public methods are for the event loop's thread.  `connect` opens a client with the service's database selected; it
    blocks, and is called through `call`, whose worker must not be shared.  `clock_us` is the system clock, µs since
    1970.  `remember` gets after a start what was sent before, `on_notification` each notification.
    """

    def __init__(
        self,
        settings: AlertSettings,
        metrics: Metrics,
        call: Call,
        connect: Callable[[], Client],
        outbox: Outbox,
        *,
        clock_us: Clock,
        remember: Remember | None = None,
        on_notification: OnNotification | None = None,
        own: Callable[[], Mapping[str, float]] | None = None,
        learned: Path | None = None,
    ) -> None:
        """`own` gives the measures of the service itself that stand in no view; `learned` is the directory for what
        rules learn."""
        self._learned = learned
        self._settings = settings
        self._call = call
        self._outbox = outbox
        self._clock_us = clock_us
        self._remember = remember
        self._on_notification = on_notification
        self._own = own
        self._watching: asyncio.Task[None] | None = None
        self._rules = {rule.name: rule for rule in settings.active()}
        self._evaluator = Evaluator(settings, tuple(self._rules.values()))
        self._notifier = Notifier(settings)
        self._store = AlertStore()
        self._client = KeptClient(connect)
        self._waiting: list[WindowClosed] = []
        self._deliveries: list[_Delivery] = []
        self._newest_us = 0
        self._epoch = 0
        self._wake = asyncio.Event()
        self._loaded = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._counted = {"refused": 0, "dropped": 0}
        self.status: dict[str, RuleStatus] = {name: RuleStatus() for name in self._rules}
        """By rule.  The worker replaces entries, and changes none."""
        self.counts: dict[str, tuple[int, int]] = dict.fromkeys(self._rules, (0, 0))
        """By rule: series that are pending, alerts that last."""
        self._declare(metrics)

    def _declare(self, metrics: Metrics) -> None:
        self._firing = metrics.gauge(
            "alerts_firing", "Alerts that have fired and not ended, acknowledged ones, too.", ("rule",)
        )
        self._pending = metrics.gauge("alerts_pending", "Series beyond a limit, but not for long enough.", ("rule",))
        self._evaluations = metrics.counter("alert_evaluations_total", "Rules evaluated.", ("rule",))
        self._failures = metrics.counter("alert_evaluation_failures_total", "Rules not evaluated.", ("rule",))
        for rule in self._rules:
            for family in (self._firing, self._pending, self._evaluations, self._failures):
                family.labels(rule)
        self._put_off = metrics.counter(
            "alert_evaluations_put_off_total", "Rules not evaluated: still reading what was before.", ("rule",)
        )
        self._seconds = metrics.histogram("alert_evaluation_seconds", "Time of one evaluation.", BUCKETS, ("level",))
        self._passed_over = metrics.counter(
            "alert_windows_passed_over_total",
            "Windows not evaluated: too many waited (late), or the service did not watch them whole (partial).",
            ("reason",),
        )
        for reason in ("late", "partial"):
            self._passed_over.labels(reason)
        self._defects = metrics.counter("alert_defects_total", "Windows lost to a defect of vmflow itself.")
        self._messages = metrics.counter("alert_messages_total", "Messages handed over to delivery.", ("severity",))
        self._refused = metrics.counter("alerts_refused_total", "Alerts not begun: too many states.")
        self._left_out = metrics.counter(
            "alert_series_left_out_total", "Series that a rule did not look at, at least: too many."
        )
        self._unfit = metrics.counter(
            "anomaly_state_failures_total",
            "States of a rule that were not read (unfit) or written, begun without the rhythm of hours, or kept though "
            "the clock was set back.",
            ("rule", "what"),
        )
        self._learning = {
            "state": self._unfit,
            "masked": metrics.counter(
                "anomaly_masked_windows_total",
                "Windows of series in which a known change held alerts back; too_often: no longer, the most in a day.",
                ("rule", "why"),
            ),
            "verdicts": metrics.counter(
                "anomaly_verdicts_total",
                "Verdicts of people on alerts: learned, partly (what was before the alert is not known), or dropped.",
                ("rule", "result"),
            ),
        }
        labels = {
            "state": ("unfit", "unwritten", "hours", "set_back"),
            "masked": MASKS,
            "verdicts": ("learned", "partly", "dropped"),
        }
        for one in self._rules.values():
            if one.condition == "anomaly":
                for metric, family in self._learning.items():
                    for label in labels[metric]:
                        family.labels(one.name, label)
        self._write_failures = metrics.counter("alert_write_failures_total", "Attempts to write states that failed.")
        self._rows_dropped = metrics.counter("alert_rows_dropped_total", "Rows of states that could not be written.")

    @property
    def enabled(self) -> bool:
        """Whether rules are evaluated."""
        return self._settings.enabled

    def now_us(self) -> int:
        """The clock of the stage, µs since 1970."""
        return self._clock_us()

    def judged_us(self, closed_us: int) -> int:
        """Until when windows are evaluated that ended, if they have closed until `closed_us`; µs since 1970.

        May be called on any thread.
        """
        return min([closed_us, *(window.end_us - LEVEL_US["10s"] for window in self._waiting)])

    async def window_closed(self, window: WindowClosed, /) -> None:
        """Take a closed window: it is evaluated once it is settled."""
        if not self._rules or not self._settings.enabled:
            return
        if window.epoch != self._epoch:
            self._epoch, self._newest_us = window.epoch, 0
        self._newest_us = max(self._newest_us, window.end_us)
        if window.partial:
            self._passed_over.labels("partial").inc()
        elif any(rule.level == window.level for rule in self._rules.values()):
            self._waiting.append(window)
            excess = len(self._waiting) - self._settings.waiting_windows
            if excess > 0:
                self._passed_over.labels("late").inc(excess)
                del self._waiting[:excess]
        self._wake.set()

    def delivered(self, group: NotificationGroup, receiver: str, ok: bool) -> None:
        """Note that a receiver has the message, or (`ok` false) that it was given up."""
        self._deliveries.append(_Delivery(group.key, receiver, "delivered" if ok else "given_up"))
        self._wake.set()

    async def acknowledge(self, alert_id: str, who: str, comment: str = "") -> bool:
        """Acknowledge an alert in the name of `who`.  False if no alert with this id is firing."""
        return await self._apply(self._acknowledge, alert_id, who, comment)

    async def resolve(self, alert_id: str, who: str, comment: str = "", verdict: Opinion = "none") -> bool:
        """End an alert in the name of `who`, with their verdict.  False if none with this id lasts; without a verdict,
        else if the store does not know it.  Raises AlertServiceError if the store does not answer."""
        return await self._apply(self._resolve, alert_id, who, comment, verdict)

    async def expected(self, rule: str, series: int) -> list[Row]:
        """What a rule takes for usual of a series in the day around now; see `AlertService`."""
        await self._loaded.wait()
        return await self._call(self._evaluator.expected, rule, series, self._clock_us())

    async def retire(self, wanted: Mapping[str, str], who: str, comment: str = "") -> list[dict[str, str]]:
        """Expect no exporter with these labels any more, until it sends again.  Returns the labels of each."""
        retired: list[dict[str, str]] = []
        await self._apply(self._retire, wanted, who, comment, retired)
        return retired

    async def silence(self, matchers: Mapping[str, str], until_us: int, who: str, comment: str = "") -> str:
        """Keep messages back, of alerts that match, until a time (µs since 1970); returns the silence's id.

        Raises ValueError for matchers that match nothing or everything, a time gone by, or too many silences.
        """
        if not matchers or not set(matchers) <= MATCHABLE:
            raise ValueError(f"matchers {dict(matchers)}: expected at least one of {', '.join(sorted(MATCHABLE))}")
        made_us = self._clock_us()
        if until_us <= made_us:
            raise ValueError(f"until = {until_us}: a time to come is expected, µs since 1970")
        silence = Silence(dict(matchers), until_us, made_us, who, comment)
        if not await self._apply(self._silence, silence, made_us):
            raise ValueError(f"there are {self._settings.silences} silences already")
        return silence.silence_id

    async def end_silence(self, silence_id: str) -> bool:
        """End a silence now.  False if there is none with this id."""
        return await self._apply(self._end_silence, silence_id, self._clock_us())

    async def __aenter__(self) -> Self:
        if self._settings.enabled:
            self._task = asyncio.create_task(self._run(), name="alerts")
            self._watching = asyncio.create_task(self._watch(), name="alerts-own")
        return self

    async def __aexit__(self, *error: object) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        await cancel(task, self._watching)
        # What is not written now is offered again at the next start.
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                await self._call(self._finish, self._take_deliveries())
        except TimeoutError:
            _log.warning("last state of alerts not written in time", deadline_seconds=FINISH_SECONDS)

    async def _run(self) -> None:
        await self._load()
        while True:
            await self._wake.wait()
            self._wake.clear()
            # One window at a time: messages go out, too, about what fires and ends while many wait.
            for window in self._due():
                await self._guarded(self._evaluate, window)
            await self._guarded(self._note, self._take_deliveries())

    async def _watch(self) -> None:
        """Evaluate the service itself, whether or not windows close: without the store none may."""
        while self._own is not None:
            await asyncio.sleep(OWN_SECONDS)
            await self.look_at_own()

    async def look_at_own(self) -> None:
        """Evaluate what the service says of itself now."""
        if self._own is not None:
            await self._guarded(self._evaluate_own, dict(self._own()))

    async def _guarded(self, function: Callable[..., tuple[bool, list[Change]]], argument: object) -> None:
        """Apply a function; a defect costs one window, never the stage."""
        try:
            await self._apply(function, argument)
        except Exception as error:  # noqa: BLE001 - see above
            self._defects.inc()
            _log.sampled("alerts failed over a window", key=type(error).__name__, error=repr(error)[:300])

    async def _load(self) -> None:
        """Read what a former run left behind, and offer again what it could not deliver."""
        while True:
            try:
                waiting, sent = await self._call(self._read_former, self._clock_us())
            except Exception as error:  # noqa: BLE001 - whatever the store says, the service goes on
                _log.sampled(
                    "state of alerts not read: trying again", key=type(error).__name__, error=first_line(error)
                )
                await asyncio.sleep(LOAD_AGAIN_SECONDS)
                continue
            break
        if self._remember is not None:
            await self._remember(sent)
        self._loaded.set()
        for group in waiting:
            self._outbox.offer(group)
        self._count()

    def _due(self) -> list[WindowClosed]:
        """Windows that are settled, oldest first."""
        settled_us = self._newest_us - round(self._settings.settle_seconds * SECOND_US)
        due = [window for window in self._waiting if window.end_us <= settled_us or window.epoch != self._epoch]
        self._waiting = [window for window in self._waiting if window not in due]
        return due

    def _take_deliveries(self) -> list[_Delivery]:
        taken, self._deliveries = self._deliveries, []
        return taken

    async def _apply(self, function: Callable[..., tuple[bool, list[Change]]], *args: Any) -> bool:
        """Change states on the worker, write what changed, then hand over the messages."""
        await self._loaded.wait()
        done, messages, found = await self._call(self._change, function, args, self._clock_us())
        for message in messages:
            self._messages.labels(message.group.severity).inc()
            self._outbox.offer(message.group)
        if self._on_notification is not None:
            for notification in found:
                self._on_notification(notification)
        self._count()
        return done

    def _count(self) -> None:
        """Update the metrics to the states; the worker is idle."""
        states = self._evaluator.states
        for name in self._rules:
            counts = Counter(alert.lasts for alert in states.of_rule(name))
            self.counts[name] = (counts[False], counts[True])
            self._firing.labels(name).set(counts[True])
            self._pending.labels(name).set(counts[False])
        self._refused.inc(states.refused - self._counted["refused"])
        self._rows_dropped.inc(self._store.dropped - self._counted["dropped"])
        self._counted = {"refused": states.refused, "dropped": self._store.dropped}

    # On the worker thread.

    def _change(
        self, function: Callable[..., tuple[bool, list[Change]]], args: tuple[Any, ...], now_us: int
    ) -> tuple[bool, list[Message], list[AlertNotification]]:
        """Blocks."""
        done, changes = function(*args)
        more, messages = self._notifier.notify(self._evaluator.states, changes, now_us)
        self._store.keep([*changes, *more], messages, now_us)
        self._flush()
        return done, messages, notifications([*changes, *more], now_us) if self._on_notification else []

    def _evaluate_own(self, values: Mapping[str, float]) -> tuple[bool, list[Change]]:
        now_us = self._clock_us()
        outcome = self._evaluator.own(values, now_us)
        for name, series in outcome.evaluated.items():
            self._evaluations.labels(name).inc()
            self.status[name] = replace(self.status[name], evaluated_us=now_us, window_end_us=now_us, series=series)
        return True, outcome.changes

    def _evaluate(self, window: WindowClosed) -> tuple[bool, list[Change]]:
        begun = time.monotonic()
        with contextlib.ExitStack() as using:
            try:
                client = using.enter_context(self._client.use())
            except Exception as error:  # noqa: BLE001 - a store that is down costs windows, not the stage
                self._failed({rule.name: error for rule in self._rules.values() if rule.level == window.level})
                return False, []
            outcome = self._evaluator.evaluate(client, window.level, window.start_us, window.end_us)
        for name, series in outcome.evaluated.items():
            self._evaluations.labels(name).inc()
            self.status[name] = replace(
                self.status[name], evaluated_us=self._clock_us(), window_end_us=window.end_us, series=series
            )
        for name in outcome.put_off:
            self._put_off.labels(name).inc()
        self._left_out.inc(outcome.left_out)
        self._failed(outcome.failed)
        self._note_learning()
        self._store.keep_scores(self._evaluator.scores)
        self._evaluator.scores = []
        self._unwritten(self._evaluator.save(window.end_us))
        self._seconds.labels(window.level).observe(time.monotonic() - begun)
        return not outcome.failed, outcome.changes

    def _note_learning(self) -> None:
        for name, metric, label, times in self._evaluator.take_counts():
            self._learning[metric].labels(name, label).inc(times)
            if label == "set_back":
                _log.sampled("the clock was set back: what was learned is kept", rule=name)
            elif label == "hours":
                _log.sampled("hours cannot be read: a rule begins without the daily rhythm", key=name, rule=name)

    def _unwritten(self, errors: Mapping[str, OSError]) -> None:
        for name, error in errors.items():
            self._unfit.labels(name, "unwritten").inc()
            _log.sampled("what a rule learned is not written", key=name, rule=name, error=str(error))

    def _failed(self, errors: Mapping[str, BaseException]) -> None:
        for name, error in errors.items():
            self._failures.labels(name).inc()
            self.status[name] = replace(
                self.status[name], failed_us=self._clock_us(), error=clean(first_line(error), 300)
            )
            _log.sampled("a rule was not evaluated", key=name, rule=name, error=first_line(error))
        if errors:
            self._client.close()

    def _acknowledge(self, alert_id: str, who: str, comment: str) -> tuple[bool, list[Change]]:
        states = self._evaluator.states
        alert = states.find(alert_id)
        changes = [] if alert is None else states.acknowledge(alert, self._clock_us(), who, comment)
        return bool(changes), changes

    def _resolve(self, alert_id: str, who: str, comment: str, verdict: Opinion) -> tuple[bool, list[Change]]:
        states, now_us = self._evaluator.states, self._clock_us()
        alert = states.find(alert_id)
        said = "none"
        if alert is not None:
            said = alert.verdict
            changes = states.resolve(alert, now_us, who, comment, verdict)
            if alert.rule.condition == "absent":
                self._evaluator.dismiss(alert, now_us)
        elif verdict != "none" and (alert := self._former(alert_id)) is not None:
            said = alert.verdict
            alert.judge(verdict, now_us)
            changes = [Change(alert, "judged", who, comment)]
        else:
            return False, []
        if verdict not in ("none", said):  # said again, it is nothing new
            self._evaluator.learn_verdict(alert)
        return bool(changes), changes

    def _former(self, alert_id: str) -> Alert | None:
        """An alert that has ended.  Blocks.  None if the store does not know it.  Raises AlertServiceError."""
        try:
            with self._client.use() as client:
                return self._store.find(client, alert_id, self._rules)
        except Exception as error:
            _log.sampled("a former alert was not read", key=type(error).__name__, error=first_line(error))
            raise AlertServiceError(f"the store does not answer: {first_line(error)}") from error

    def _retire(
        self, wanted: Mapping[str, str], who: str, comment: str, retired: list[dict[str, str]]
    ) -> tuple[bool, list[Change]]:
        changes = self._evaluator.retire(wanted, self._clock_us(), who, comment)
        for change in changes:
            if change.alert.labels not in retired:
                retired.append(change.alert.labels)
        return bool(changes), changes

    def _silence(self, silence: Silence, now_us: int) -> tuple[bool, list[Change]]:
        if len(self._notifier.silences) >= self._settings.silences:
            return False, []
        self._notifier.silences[silence.silence_id] = silence
        self._store.keep_silence(silence, now_us)
        return True, []

    def _end_silence(self, silence_id: str, now_us: int) -> tuple[bool, list[Change]]:
        silence = self._notifier.silences.pop(silence_id, None)
        if silence is not None:
            self._store.keep_silence(replace(silence, until_us=now_us), now_us)
        return silence is not None, []

    def _read_former(self, now_us: int) -> tuple[list[NotificationGroup], list[NotificationGroup]]:
        """Messages that wait, and what was sent before.  Blocks.  Raises the driver's errors."""
        absent = [rule for rule in self._rules.values() if rule.condition == "absent"]
        back = max([self._settings.flap_seconds, *(SEED_WINDOWS * LEVELS[rule.level] for rule in absent)])
        recent_us = now_us - round(back * SECOND_US)
        outbox_us = now_us - round(self._settings.outbox_seconds * SECOND_US)
        if self._learned is not None:
            for name, why in self._evaluator.keep(self._learned).items():
                self._unfit.labels(name, "unfit").inc()
                _log.warning("what a rule learned is not used: learning from the stored windows", rule=name, why=why)
            self._learned = None
        with self._client.use() as client:
            found = self._store.load(client, self._rules, recent_us, outbox_us, now_us)
        self._evaluator.restore(found.alerts)
        self._notifier.silences = {silence.silence_id: silence for silence in found.silences}
        if found.orphans:
            _log.info("alerts ended: their rules are gone", alerts=len(found.orphans))
        self._flush()
        return found.waiting, self._notifier.notified_before(self._evaluator.states, now_us)

    def _finish(self, deliveries: list[_Delivery]) -> None:
        self._note(deliveries)
        self._flush()
        self._unwritten(self._evaluator.save())
        self._client.close()

    def _note(self, deliveries: list[_Delivery]) -> tuple[bool, list[Change]]:
        for one in deliveries:
            self._store.keep_delivery(one.message, one.receiver, one.state, self._clock_us())
        return True, []

    def _flush(self) -> None:
        """Write what changed.  A store that refuses does not delay the messages: the rows wait."""
        try:
            with self._client.use() as client:
                self._store.flush(client)
        except Exception as error:  # noqa: BLE001 - as above
            self._write_failures.inc()
            _log.sampled("state of alerts not written", key=type(error).__name__, error=first_line(error))
