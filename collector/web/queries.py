"""What routes read of the store, bounded.  Rows are dictionaries by name of column, times in µs since 1970.

In SQL the names are our own constants; whatever a person writes is bound.  Conditions stand in an inner query, where
times are times: outside, their names mean numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from collector.interfaces import Row
from collector.store_errors import first_line
from collector.store_reader import Bounds, Reader
from schemas.alerts import ALERTS, EVENTS_TABLE, SILENCES, newest_sql, times_as_us
from schemas.anomalies import SCORES
from schemas.text import like

BOUNDS = Bounds(seconds=6, octets=512 * 2**20)
ANSWER_SECONDS = 8.0
"""Longest wait for the store and for earlier requests."""

_FIRED, _SINCE, _AFTER = (f"fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')" for name in ("fired", "since", "after"))
_VMS = " OR ".join(f"labels['{name}'] LIKE {{vm:String}}" for name in ("vm", "src_vm", "dst_vm"))

ALERTS_SQL = f"""
SELECT {times_as_us(ALERTS)} FROM (
    SELECT * FROM {ALERTS.name} FINAL
    WHERE (empty({{states:Array(String)}}) OR has({{states:Array(String)}}, toString(status)))
      AND (empty({{severities:Array(String)}}) OR has({{severities:Array(String)}}, toString(severity)))
      AND (empty({{rules:Array(String)}}) OR has({{rules:Array(String)}}, toString(rule)))
      AND startsWith(alert_id, {{begin:String}})
      AND ({{vm:String}} = '' OR {_VMS})
      AND ({{fired:Int64}} = 0 OR (time, alert_id) < ({_FIRED}, {{id:String}}))
    ORDER BY time DESC, alert_id DESC
    LIMIT {{limit:UInt32}}
) AS found
ORDER BY found.time DESC, found.alert_id DESC
"""  # noqa: S608 - see above

ALERT_SQL = newest_sql(ALERTS, "alert_id = {id:String}")

# What came first of two changes at the same moment: an alert fires before its message goes out.
EVENTS_SQL = f"""
SELECT {times_as_us(EVENTS_TABLE)} FROM (
    SELECT * FROM {EVENTS_TABLE.name}
    WHERE alert_id = {{id:String}} AND time >= {_SINCE}
    ORDER BY time, event
    LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}
) AS found
ORDER BY found.time, found.event
"""  # noqa: S608 - see above

# What kept the message of an alert back last: a rule, or a silence.
KEEPERS_SQL = f"""
SELECT alert_id, argMax(who, time) AS keeper FROM {EVENTS_TABLE.name}
WHERE alert_id IN {{ids:Array(String)}} AND time >= {_SINCE} AND event IN ('inhibited', 'silenced')
GROUP BY alert_id
"""  # noqa: S608 - see above

SILENCES_SQL = f"""
SELECT {times_as_us(SILENCES)} FROM (
    SELECT * FROM {SILENCES.name} FINAL
    WHERE until > {_AFTER}
    ORDER BY time DESC, silence_id DESC
    LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}
) AS found
ORDER BY found.time DESC, found.silence_id DESC
"""  # noqa: S608 - see above


ANOMALIES_SQL = f"""
SELECT {times_as_us(SCORES)} FROM (
    SELECT * FROM {SCORES.name}
    WHERE time > {_AFTER} AND score >= {{least:Float64}}
      AND (empty({{rules:Array(String)}}) OR has({{rules:Array(String)}}, toString(rule)))
      AND ({{series:String}} = '' OR toString(series) = {{series:String}})
      AND ({{vm:String}} = '' OR {_VMS})
    ORDER BY time DESC, score DESC
    LIMIT {{limit:UInt32}}
) AS found
ORDER BY found.time DESC, found.score DESC
"""  # noqa: S608 - see above


class NoAnswerError(Exception):
    """The store does not answer; the message says why."""


async def read(reader: Reader, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
    """Return rows.  Raises NoAnswerError."""
    try:
        return await reader.rows(sql, parameters)
    except TimeoutError as error:
        raise NoAnswerError(f"no answer within {ANSWER_SECONDS:g} s") from error
    except Exception as error:
        raise NoAnswerError(f"the store does not answer: {first_line(error)}") from error


async def alerts(
    reader: Reader,
    *,
    states: Sequence[str],
    severities: Sequence[str],
    rules: Sequence[str],
    vm: str,
    begin: str,
    limit: int,
    before: tuple[int, str] | None,
) -> list[Row]:
    """Return rows of `alerts`, the last fired first, each with `held_back_by`; what is empty does not restrict.

    `vm` is a name at either end, with `*` and `?`; `begin` how the id begins; `before` continues after an alert: when
    it fired, and its id.
    """
    fired_us, alert_id = before or (0, "")
    parameters = {
        "states": list(states), "severities": list(severities), "rules": list(rules),
        "vm": like(vm), "begin": begin, "limit": limit, "fired": fired_us, "id": alert_id,
    }  # fmt: skip
    return await _with_keepers(reader, await read(reader, ALERTS_SQL, parameters))


async def alert(reader: Reader, alert_id: str) -> Row | None:
    """Return the same row of one alert."""
    found = await _with_keepers(reader, await read(reader, ALERT_SQL, {"id": alert_id}))
    return found[0] if found else None


async def _with_keepers(reader: Reader, found: Sequence[Row]) -> list[Row]:
    """The same rows of `alerts`, and what keeps their messages back, which stands among the events: the name of a rule,
    or a silence with its id and author."""
    kept = [row for row in found if row["held_back"]]
    keepers = {}
    if kept:
        parameters = {"ids": [row["alert_id"] for row in kept], "since": min(row["since"] for row in kept)}
        keepers = {row["alert_id"]: row["keeper"] for row in await read(reader, KEEPERS_SQL, parameters)}
    return [{**row, "held_back_by": keepers.get(row["alert_id"], "")} for row in found]


async def history(reader: Reader, alert: Row, limit: int, offset: int) -> Sequence[Row]:
    """Return rows of `alert_events` about an alert, oldest first."""
    parameters = {"id": alert["alert_id"], "since": alert["since"], "limit": limit, "offset": offset}
    return await read(reader, EVENTS_SQL, parameters)


async def silences(reader: Reader, limit: int, offset: int, after_us: int) -> Sequence[Row]:
    """Return rows of `alert_silences` that end after a time, newest first."""
    return await read(reader, SILENCES_SQL, {"after": after_us, "limit": limit, "offset": offset})


async def anomalies(
    reader: Reader, *, rules: Sequence[str], series: str, vm: str, after_us: int, least: float, limit: int
) -> Sequence[Row]:
    """Return rows of `anomaly_scores` after a time, the newest first; what is empty does not restrict."""
    parameters = {
        "rules": list(rules), "series": series, "vm": like(vm), "after": after_us, "least": least, "limit": limit,
    }  # fmt: skip
    return await read(reader, ANOMALIES_SQL, parameters)
