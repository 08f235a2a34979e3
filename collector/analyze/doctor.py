"""The exporter doctor: what is wrong with an exporter, from its stream alone, and the line that repairs it.

`examine` answers once, for the command line.  `Doctor` is the part of the service that looks again and again, so that
the rows of table `exporters` carry the codes of what it found.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from types import TracebackType
from typing import Any, Self

from clickhouse_connect.driver import Client

from collector.analyze.checks import CHECKS, Check
from collector.analyze.settings import AnalyzeSettings
from collector.analyze.watermark import SECOND_US
from collector.log import get_log
from collector.metrics import Metrics
from collector.ports import Call, Clock
from collector.store_errors import first_line

FLOW_SECONDS = 300
"""Time of `flows` that is looked at, at most: the table of many rows."""

LIMITS = {"max_execution_time": 20, "max_memory_usage": 256 * 2**20}
"""Of one check: what a page may cost in front of a busy store."""

LEAST_SECONDS = 60
"""Shortest time that the service looks back: six rows of `exporters`, by its default interval."""

FINDINGS = 1000
"""Findings of one check, at most."""

_log = get_log("analyze")

Stream = tuple[bytes, bytes, int, str]
"""Exporter and agent (16 octets each, IPv4 mapped), domain, protocol."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one stream."""

    code: str
    exporter: str
    """Sender address as people write it."""
    agent: str
    """sFlow agent, `::` for other protocols."""
    domain: int
    protocol: str
    sentence: str
    repair: tuple[str, ...]
    """Lines to type or to set; what is not a command begins with #."""
    stream: Stream


def examine(
    client: Client, until_us: int, seconds: int, checks: Iterable[Check] = CHECKS, flow_seconds: int = FLOW_SECONDS
) -> list[Finding]:
    """Run all checks over the `seconds` before `until_us` (µs since 1970).

    Of `flows` only the last `flow_seconds` are read; `reconciliation` is always about the last hour.  Blocks.  Raises
    the driver's errors.
    """
    since_us = until_us - seconds * SECOND_US
    recent_us = max(since_us, until_us - flow_seconds * SECOND_US)
    found = []
    for check in checks:
        sql = check.sql.format(since=since_us, recent=recent_us, until=until_us)
        answer = client.query(f"{sql} ORDER BY exporter, agent, domain LIMIT {FINDINGS}", settings=LIMITS)
        found += [_finding(check, dict(zip(answer.column_names, row, strict=True))) for row in answer.result_rows]
    return sorted(found, key=lambda one: (one.exporter, one.agent, one.domain, one.protocol))


def _finding(check: Check, row: Mapping[str, Any]) -> Finding:
    exporter, agent, protocol = shown(row["exporter"]), shown(row["agent"]), str(row["protocol"])
    unit = "datagrams" if protocol in ("sflow5", "netflow9") else "records"
    values = {**row, "exporter": exporter, "agent": agent, "unit": unit}
    return Finding(
        check.code,
        exporter,
        agent,
        int(row["domain"]),
        protocol,
        check.sentence.format(**values),
        tuple(line.replace("{exporter}", exporter).replace("{protocol}", protocol) for line in check.repair),
        (packed(row["exporter"]), packed(row["agent"]), int(row["domain"]), protocol),
    )


def shown(address: Any) -> str:
    """An address as people write it; IPv4 without the mapping."""
    parsed = IPv6Address(str(address))
    return str(parsed.ipv4_mapped or parsed)


def packed(address: Any) -> bytes:
    """An address as the tables hold it."""
    return IPv6Address(str(address)).packed


class Doctor:
    """Looks at all exporters every now and then.  A component.

    `connect` opens a client with our database selected; it blocks, and is called through `call`, whose worker should
    not be shared with anything that must be quick.  `clock_us` is the system clock, µs since 1970.
    """

    def __init__(
        self,
        settings: AnalyzeSettings,
        metrics: Metrics,
        call: Call,
        connect: Callable[[], Client],
        *,
        clock_us: Clock,
    ) -> None:
        self._settings = settings
        self._call = call
        self._connect = connect
        self._clock_us = clock_us
        self._codes: dict[Stream, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._found = metrics.gauge("exporter_findings", "Exporter streams that have this finding.", ("code",))
        for check in CHECKS:
            self._found.labels(check.code)
        self._looks = metrics.counter("doctor_looks_total", "Looks at all exporters.", ("result",))
        for result in ("ok", "failed"):
            self._looks.labels(result)

    def codes(self, exporter: bytes, agent: bytes, domain: int, protocol: str) -> str:
        """Codes of what the last look found in a stream, joined by commas.  May be called on any thread."""
        return self._codes.get((exporter, agent, domain, protocol), "")

    async def __aenter__(self) -> Self:
        if self._settings.doctor_enabled:
            self._task = asyncio.create_task(self._run(), name="doctor")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.doctor_seconds)
            await self.look()

    async def look(self) -> None:
        """Look now.  A store that cannot be asked leaves the former findings as they are, and is counted."""
        try:
            findings = await self._call(self._examine, self._clock_us())
        except Exception as error:  # noqa: BLE001 - whatever the store says, the service goes on
            self._looks.labels("failed").inc()
            _log.sampled("exporters not looked at", key=type(error).__name__, error=first_line(error))
            return
        codes: dict[Stream, list[str]] = {}
        for finding in findings:
            codes.setdefault(finding.stream, []).append(finding.code)
        # Replaced at once, never changed: other threads read it.
        self._codes = {stream: ",".join(found) for stream, found in codes.items()}
        for check in CHECKS:
            self._found.labels(check.code).set(sum(check.code in found for found in codes.values()))
        self._looks.labels("ok").inc()

    def _examine(self, now_us: int) -> list[Finding]:
        """Blocks.  A connection of its own each time: it is needed once a minute."""
        seconds = max(LEAST_SECONDS, self._settings.doctor_seconds)
        client = self._connect()
        try:
            return examine(client, now_us, round(seconds), flow_seconds=round(seconds))
        finally:
            client.close()
