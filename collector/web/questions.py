"""The questions of the console: named SQL with bound values, answered as columns in the engine's own JSON.

Python touches no row.  Names of columns and orders are our own constants; whatever a person writes is bound.  Sums over
pairs get their interval from the half-widths of the parts, in quadrature: their errors are independent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clickhouse_connect.driver import Client

from collector.store_reader import Bounds
from schemas.rollups import LEVELS
from schemas.text import like
from schemas.views.common import suffix

BOUNDS = Bounds(seconds=8, rows=10_000)
ANSWER_SECONDS = 12.0
"""Longest wait for the store and for earlier questions."""
AT_ONCE = 2
"""Questions at a time, on as many threads."""
MOST_ROWS = 200
MOST_WINDOWS = 720
"""Of a series: more do not fit on a screen."""
MOST_OFFSET = 100_000

_AT = "time = toDateTime({at:UInt32}, 'UTC')"
_RANGE = "time >= toDateTime({from:UInt32}, 'UTC') AND time < toDateTime({until:UInt32}, 'UTC')"
_NAMED = "src_vm != '' AND dst_vm != ''"
_SLOW = "latency_us - latency_spread_us > 20000"
"""For certain above 20 ms, as `loss_low` is for loss."""
_HALF = "sqrt(sum(pow(ifNull(bits_per_second_high - bits_per_second_low, 0) / 2, 2)))"
_LOOK = (
    "({vm:String} = '' OR src_vm LIKE {vm:String} OR dst_vm LIKE {vm:String})"
    " AND ({host:String} = '' OR src_host LIKE {host:String} OR dst_host LIKE {host:String})"
    " AND ({network:String} = '' OR network LIKE {network:String})"
)
_PAIR_COLUMNS = """src_vm, dst_vm, src_host, dst_host, network,
    bits_per_second, bits_per_second_low, bits_per_second_high,
    packets_per_second, packets_per_second_low, packets_per_second_high,
    loss_ratio, loss_low, loss_high, toString(loss_evidence) AS loss_evidence,
    latency_us, latency_spread_us, latency_method, latency_missing, jitter_us,
    connections, connections_evidence,
    new_connections_per_second, new_connections_per_second_low, new_connections_per_second_high,
    error_ratio, error_low, error_high, resets, counted_at, watched_seconds, samples, sampling_rate,
    sent_packets, received_packets"""

SORTS = {
    "bits": "bits_per_second", "packets": "packets_per_second", "loss": "loss_ratio", "certain": "loss_low",
    "latency": "latency_us", "connections": "connections", "errors": "error_ratio", "src": "src_vm", "dst": "dst_vm",
}  # fmt: skip
"""Names of orders and their columns; the page may ask for no other."""
ONLY = {
    "": "1",
    "lossy": "loss_low > 0",
    "slow": _SLOW,
    "blind": "loss_evidence = 'blind' AND src_host != dst_host",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `{level}` and `{order}` in its SQL are ours, all other braces are bound by the engine."""

    sql: str
    takes: Mapping[str, Any] = field(default_factory=dict)
    """Parameters and their defaults."""


_RANGED = {"from": 0, "until": 0}
_LOOKED = {"vm": "", "host": "", "network": ""}

QUESTIONS = {
    "newest": Question(
        """SELECT toUnixTimestamp(max(time)) AS t, count() AS found FROM pair_@table
WHERE time >= toDateTime({from:UInt32}, 'UTC') AND time < toDateTime({until:UInt32}, 'UTC')
    AND time <= now() - toIntervalSecond({closed:UInt32})""",
        {"from": 0, "until": 0, "closed": 0},
    ),
    "summary": Question(
        f"""SELECT count() AS pairs, sum(bits_per_second) AS bits, {_HALF} AS half,
    countIf(loss_low > 0) AS lossy, max(loss_low) AS worst_low, argMax(loss_ratio, loss_low) AS worst,
    argMax(loss_high, loss_low) AS worst_high, argMax(src_vm, loss_low) AS worst_src,
    argMax(dst_vm, loss_low) AS worst_dst,
    countIf({_SLOW}) AS slow, countIf(latency_us IS NOT NULL) AS timed,
    countIf(src_host != dst_host) AS crossing,
    countIf(loss_evidence = 'blind' AND src_host != dst_host) AS blind,
    sumIf(bits_per_second, loss_evidence = 'blind' AND src_host != dst_host) AS blind_bits,
    sumIf(bits_per_second, src_host != dst_host) AS crossing_bits,
    countIf(loss_evidence = 'insufficient') AS insufficient
FROM pair_metrics@level WHERE {_AT} AND {_NAMED}""",  # noqa: S608 - names are our own constants, values are bound
        {"at": 0},
    ),
    "totals": Question(
        f"""SELECT toUnixTimestamp(time) AS t, sum(bits_per_second) AS bits,
    greatest(0, bits - {_HALF}) AS bits_low, bits + {_HALF} AS bits_high, count() AS pairs
FROM pair_metrics@level WHERE {_RANGE} AND {_NAMED} GROUP BY time ORDER BY time""",  # noqa: S608 - names are our own constants, values are bound
        _RANGED,
    ),
    "pairs": Question(
        f"""SELECT {_PAIR_COLUMNS}, count() OVER () AS every
FROM pair_metrics@level
WHERE {_AT} AND {_NAMED} AND {_LOOK} AND @only
ORDER BY @order NULLS LAST, src_vm, dst_vm, network LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}""",  # noqa: S608 - names are our own constants, values are bound
        {"at": 0, **_LOOKED, "limit": 50, "offset": 0},
    ),
    "pair_series": Question(
        f"""SELECT toUnixTimestamp(time) AS t, {_PAIR_COLUMNS}
FROM pair_metrics@level
WHERE {_RANGE} AND src_vm = {{src:String}} AND dst_vm = {{dst:String}}
    AND ({{network:String}} = '' OR network = {{network:String}})
ORDER BY time LIMIT {MOST_WINDOWS}""",  # noqa: S608 - names are our own constants, values are bound
        {**_RANGED, "src": "", "dst": "", "network": ""},
    ),
    "exporters": Question(
        """SELECT replaceRegexpOne(toString(exporter), '^::ffff:', '') AS exporter,
    replaceRegexpOne(toString(agent), '^::ffff:', '') AS agent, toString(protocol) AS protocol, domain,
    toUnixTimestamp(max(time)) AS last_seen, sum(datagrams) AS datagrams, sum(records) AS records,
    sum(export_lost) AS export_lost, sum(samples_lost + agent_drops) AS samples_lost,
    sum(kernel_drops) AS kernel_drops, sum(queue_drops) AS queue_drops,
    argMax(sampling_rate, time) AS rate, argMax(clock_skew_us, time) AS clock_skew_us,
    argMax(findings, time) AS findings
FROM exporters
WHERE time > now() - toIntervalSecond({back:UInt32}) AND exporter != '::'
GROUP BY exporter, agent, protocol, domain ORDER BY findings = '', exporter, protocol, domain LIMIT 1000""",
        {"back": 900},
    ),
}
"""By name."""


class QuestionError(ValueError):
    """The question cannot be asked like this; the message says why."""


def prepare(name: str, level: str, given: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return SQL and its values.  Raises QuestionError."""
    question = QUESTIONS.get(name)
    if question is None:
        raise QuestionError(f"question {name[:50]!r}: one of {', '.join(QUESTIONS)} is expected")
    if level not in LEVELS:
        raise QuestionError(f"level = {level[:20]!r}: one of {', '.join(LEVELS)} is expected")
    extra = {"sort", "down", "only"} if name == "pairs" else set()
    if strange := sorted(set(given) - set(question.takes) - extra):
        raise QuestionError(f"{strange[0][:50]!r} is no parameter of {name}")
    patterns = _LOOKED if name == "pairs" else ()
    values = {key: _value(key, given.get(key, ""), default, key in patterns) for key, default in question.takes.items()}
    if name == "newest":
        values["closed"] = LEVELS[level]
    elif "until" in values and not 0 <= values["until"] - values["from"] <= MOST_WINDOWS * LEVELS[level]:
        raise QuestionError(f"from … until: at most {MOST_WINDOWS} windows of {level} are expected")
    sort, only = given.get("sort") or "bits", given.get("only") or ""
    if sort not in SORTS or only not in ONLY:
        raise QuestionError(f"sort: one of {', '.join(SORTS)}; only: one of {', '.join(ONLY)}")
    order = f"{SORTS[sort]} {'DESC' if given.get('down', '1') == '1' else 'ASC'}"
    sql = question.sql.replace("@table", level).replace("@level", suffix(level))
    return sql.replace("@order", order).replace("@only", ONLY[only]), values


def _value(name: str, text: str, default: Any, pattern: bool) -> Any:
    """Return a parameter as its default's type, a pattern as LIKE takes it.  Raises QuestionError."""
    if isinstance(default, str):
        if len(text) > 300 or "\0" in text:
            raise QuestionError(f"{name}: at most 300 characters are expected")
        return like(text) if pattern and text else text
    if not text:
        return default
    most = {"limit": MOST_ROWS, "offset": MOST_OFFSET}.get(name, 2**32 - 1)
    if not (text.isascii() and text.isdigit() and int(text[:12]) <= most):
        raise QuestionError(f"{name} = {text[:20]!r}: a number from 0 to {most} is expected")
    return int(text)


def ask(client: Client, sql: str, values: Mapping[str, Any]) -> tuple[bytes, float]:
    """Return the answer as the engine writes it, and its seconds.  Blocks; raises the driver's errors."""
    begun = time.monotonic()
    settings = BOUNDS.settings() | {"output_format_json_quote_64bit_integers": 0}
    text = client.raw_query(sql, parameters=dict(values), settings=settings, fmt="JSONColumns")
    return text, time.monotonic() - begun
