"""Latency of VM pairs: from start times in unsampled Open vSwitch IPFIX records, and as TCP states it in sFlow.

`tcp_info`, sFlow with 2209: a sample of a host's own connection comes with the round trip time that TCP of this host
has measured (smoothed, RFC 6298) and its mean deviation.  Told is, per pair, direction of the packets and exporter, the
median of both; the deviation is taken as the uncertainty.  Busy connections are sampled more often, and weigh more.

What is read: the *first* record of each flow at each exporter.  A flow is new if nothing was heard of it for `quiet`,
by time of receipt, and if its exporter was known before that: what is left are first packets, not later parts of a long
flow (the cache of Open vSwitch reports a flow again and again).  A reading belongs to the window in which the later of
its two records was received; so each is made once, however long the exporter's cache holds records back.

`handshake`, one switch, one clock: start of the answer − start of the connection, at the switch of the VM that asks.
TCP only, and only below `longest_us`: TCP repeats a lost SYN or its answer after 1 s (RFC 6298), never before.

`one_way`, two switches: start at the receiver's switch − start at the sender's = latency + offset of the two clocks.
No latency is below 0, so with d(A→B) the least difference seen one way and d(B→A) the other,

    −d(B→A) ≤ offset(clock B − clock A) ≤ d(A→B)

over all flows between these two switches in the window (the minimum filter).  The interval of the window before, made
wider by the drift of clocks since, is as true: the two are intersected.  If they contradict each other, a clock was
set, and the new one stands alone.  The middle of the interval is taken out of the readings; its half width is part of
`spread_us`.  A detour of one direction alone hides in it: no passive method can see that.

Resolution: Open vSwitch takes the time of a sampled packet from a clock of whole milliseconds (seen in 3.1), and states
it relative to the message's export time, rounded up to a second, by the same clock: the difference of the
two is exact, the start is cut to 1 ms.  The resolution of each exporter is read off its start times.

Unsampled: either the operator states a rate of 1 (`pipeline.exporters`), or a record proves it: Open vSwitch multiplies
counts by its sampling rate and states the rate nowhere, so one record of a single packet shows that nothing is
multiplied.  Open vSwitch is known by the interface's name in each record.  Exporters whose records got lost are left
out while that is in the look-back: the first record could be among the lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from clickhouse_connect.driver import Client

from collector.analyze.latency_sql import INSERT, RECORDS, STATED, STREAMS
from collector.analyze.settings import AnalyzeSettings
from collector.analyze.watermark import SECOND_US

KNOWN_US = 86_400 * SECOND_US
"""How far back to look for whether an exporter was known."""


@dataclass(frozen=True, slots=True)
class LatencyRules:
    """The settings of the query in its own units; see `AnalyzeSettings`."""

    quiet_us: int
    delay_us: int
    longest_us: int
    drift_ppm: float
    lookback_us: int
    flows: int
    records: int
    seconds: float
    octets: int

    @classmethod
    def of(cls, settings: AnalyzeSettings) -> Self:
        """The rules that the settings mean."""
        return cls(
            quiet_us=round(settings.flow_quiet_seconds * SECOND_US),
            delay_us=round(settings.record_delay_seconds * SECOND_US),
            longest_us=settings.longest_us,
            drift_ppm=settings.clock_drift_ppm,
            lookback_us=round(settings.clock_lookback_seconds * SECOND_US),
            flows=settings.latency_flows,
            records=settings.latency_records,
            seconds=settings.latency_seconds,
            octets=settings.latency_octets,
        )


class Result(StrEnum):
    """How it went with one window."""

    OK = "ok"
    TOO_MANY = "too_many"
    """There are more records in the look-back than may be read."""


def store_latency(client: Client, start_us: int, end_us: int, since_us: int, rules: LatencyRules) -> Result:
    """Work out what the records received from `start_us` to before `end_us` (µs since 1970) complete; store it.

    `since_us` is since when rows come in without a break.  Blocks, for `rules.seconds` a statement at most; raises the
    driver's errors.
    """
    parameters: dict[str, Any] = {
        "start": start_us,
        "end": end_us,
        "oldest": start_us - rules.quiet_us - rules.delay_us,
        "since": since_us,
        "known": start_us - KNOWN_US,
        "remembered": start_us - rules.lookback_us,
        "quiet": rules.quiet_us,
        "delay": rules.delay_us,
        "longest": rules.longest_us,
        "drift": rules.drift_ppm,
    }
    limits = {
        "max_execution_time": rules.seconds,
        "max_memory_usage": rules.octets,
        # Records of a connection are laid side by side in arrays: whole blocks of them would take the memory.
        "max_block_size": 8192,
        "max_threads": 1,
        # A profile of the server must not change what the statements mean.
        "join_use_nulls": 0,
    }
    client.command(STATED, parameters=parameters, settings=limits)
    if client.query(RECORDS, parameters=parameters, settings=limits).result_rows[0][0] > rules.records:
        return Result.TOO_MANY
    streams = client.query(STREAMS, parameters=parameters, settings=limits).result_rows
    if streams:
        exporters, domains, known_us, resolutions, flows = zip(*streams, strict=True)
        parameters |= {
            "exporters": [str(exporter) for exporter in exporters],
            "domains": list(domains),
            "known_us": list(known_us),
            "resolutions": list(resolutions),
            "thin": -(-sum(flows) // rules.flows),
        }
        client.command(INSERT, parameters=parameters, settings=limits)
    return Result.OK
