"""The SQL of the console's questions.

Where figures are stored (windows of 1 min and 1 h) they are asked: `@pairs` is `pair_figures_1m`, whose newest window
is the newest that is evaluated.  Windows of 10 s have the view `pair_metrics` alone, and no question about VMs or
hypervisors.  `@only` and `@order` are constants of the question, all other braces are bound by the engine.

Sums over pairs get their interval from the parts' in quadrature, each side by itself: errors of pairs are independent.
"""

# ruff: noqa: S608 - names are our own constants, and what people write is bound

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.end_figures import SLOW_US
from schemas.rollups import PAIR_HASH

MOST_WINDOWS = 720
"""Of a series: more do not fit on a screen."""
LARGEST_MATRIX = 60
"""Groups of a matrix, beside those that are added up as `other`."""

LARGEST_PATHS = 10_000
"""Paths of a picture: of four layers with eight each and all others as one there are fewer."""

_AT = "time = toDateTime({at:UInt32}, 'UTC')"
_RANGE = "time >= toDateTime({from:UInt32}, 'UTC') AND time < toDateTime({until:UInt32}, 'UTC')"
_NAMED = "src_vm != '' AND dst_vm != ''"
_SLOW = f"latency_us - latency_spread_us > {SLOW_US}"
"""For certain above the limit, as `loss_low` is for loss."""
_CROSSING = "src_host != '' AND dst_host != '' AND src_host != dst_host"
"""Between two hypervisors: where one is not known, nobody can say whether it is another."""
_ONE_SWITCH = "(src_host = dst_host AND src_host != '')"
_BLIND = f"(loss_evidence = 'blind' AND {_CROSSING})"
_LOOK = (
    "({vm:String} = '' OR src_vm LIKE {vm:String} OR dst_vm LIKE {vm:String})"
    " AND ({host:String} = '' OR src_host LIKE {host:String} OR dst_host LIKE {host:String})"
    " AND ({network:String} = '' OR network LIKE {network:String})"
)
_BITS = "bits_per_second, bits_per_second_low, bits_per_second_high"
_PAIR_COLUMNS = f"""src_vm, dst_vm, src_host, dst_host, network, toString(pair) AS pair_id,
    toString({PAIR_HASH.format(src="dst", dst="src")}) AS other_id,
    toString(src_vm_uuid) AS src_uuid, toString(dst_vm_uuid) AS dst_uuid,
    {_BITS},
    packets_per_second, packets_per_second_low, packets_per_second_high,
    loss_ratio, loss_low, loss_high, toString(loss_evidence) AS loss_evidence,
    latency_us, latency_spread_us, toString(latency_method) AS latency_method,
    toString(latency_trip) AS latency_trip, latency_missing, jitter_us,
    connections, connections_evidence,
    new_connections_per_second, new_connections_per_second_low, new_connections_per_second_high,
    error_ratio, error_low, error_high, resets, counted_at, watched_seconds, samples, sampling_rate,
    sent_packets, received_packets"""
_LOSS = "loss_ratio, loss_low, loss_high"
_LATENCY = "latency_us, latency_low, latency_high, latency_trip"
_BY_LATENCY = ("latency_us IS NOT NULL DESC", "latency_trip", "latency_us")
"""What goes one way is not compared with round trips: all of the one kind come before all of the other."""
TRIPS = ("one_way", "round_trip")
_COUNTS = "pairs, measured_pairs, lossy_pairs, blind_pairs, timed_pairs, slow_pairs, worst_loss_low"


@dataclass(frozen=True, slots=True)
class Question:
    """One question and what it takes."""

    sql: str
    takes: Mapping[str, Any] = field(default_factory=dict)
    """Parameters and their defaults."""
    patterns: tuple[str, ...] = ()
    """Those that may hold `*` and `?`."""
    sorts: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Names of orders and their columns, which follow the wanted way unless they name one; the first is the default."""
    only: Mapping[str, str] = field(default_factory=dict)
    """Names of conditions; the first is the default."""
    one: tuple[str, str, str] | None = None
    """Of several with one name: the parameter that says which, and SQL for `@one` with it and without it."""


def quadrature(name: str, when: str = "1", alias: str = "bits") -> str:
    """Return a sum of a figure over rows, and its ends, for rows where `when` holds."""
    low, high = (f"if({when}, ifNull({part}, 0), 0)" for part in (f"{name} - {name}_low", f"{name}_high - {name}"))
    return (
        f"sumIf({name}, {when}) AS {alias}, "
        f"if({alias} IS NULL, NULL, greatest(0, {alias} - sqrt(sum(pow({low}, 2))))) AS {alias}_low, "
        f"{alias} + sqrt(sum(pow({high}, 2))) AS {alias}_high"
    )


_TOTAL = quadrature("bits_per_second")
_RANGED = {"from": 0, "until": 0}
_LOOKED = {"vm": "", "host": "", "network": ""}
_PAGE = {"limit": 50, "offset": 0}


def _way(way: str) -> str:
    """Return the figures of one direction of a VM, as columns of their own."""
    names = f"{_BITS}, {_LOSS}, {_LATENCY}, lossy_pairs, worst_loss_low".split(", ")
    return ",\n    ".join(f"anyIf({name}, direction = '{way}') AS {way}_{name}" for name in names)


def _between(end: str, other: str) -> str:
    """Return the figures of one direction between a VM and its peers, as columns of their own."""
    of_loss = "loss_ratio, loss_low, loss_high, loss_evidence"
    of_latency = "latency_us, latency_spread_us, latency_trip, latency_missing"
    names = f"{_BITS}, {of_loss}, {of_latency}, pair_id".split(", ")
    columns = ", ".join(f"anyIf({name}, way = '{end}') AS {end}_{name}" for name in names)
    return columns + f", anyIf({other}_vm, way = '{end}') AS {end}_peer"


def _one_vm(when: str) -> tuple[str, str, str]:
    """Return which VM is meant: names need not be unique, so without a UUID the one that was seen last counts."""
    newest = f"(SELECT argMax(vm_uuid, (time, vm_uuid)) FROM @vms WHERE {when} AND vm = {{vm:String}})"
    return "uuid", "toUUIDOrZero({uuid:String})", newest


_ONE_PAIR = (
    "pair",
    "{pair:UInt64}",
    f"""(SELECT argMax(pair, (src_host != '' AND src_host = {{src_host:String}},
        dst_host != '' AND dst_host = {{dst_host:String}}, time, bytes, pair)) FROM @sums
    WHERE {_RANGE} AND src_vm = {{src:String}} AND dst_vm = {{dst:String}}
        AND ({{network:String}} = '' OR network = {{network:String}}))""",
)
"""Which pair is meant: without its hash, of those between VMs of these names the one on these hypervisors, seen last,
with most traffic."""
_UUID = "({uuid:String} = '' OR vm_uuid = toUUIDOrZero({uuid:String}))"

_STATE = f"""multiIf(loss_evidence IN ('exact', 'spread', 'measured'), 'both', {_ONE_SWITCH}, 'one_switch',
    loss_evidence = 'insufficient', 'insufficient', sent_packets > 0, 'sender', received_packets > 0, 'receiver',
    'nowhere')"""
"""Where the traffic of a pair is seen."""


_WORST_LATENCY = ", ".join(f"maxIf(m.latency_us, m.latency_trip = '{trip}') AS {trip}" for trip in TRIPS)


_OF_CELL = ("bits", "bits_low", "bits_high", "worst", *TRIPS, "loss", "low", "high")


def _matrix(source: str, row: str, column: str, where: str, cell: str, measured: str) -> str:
    """Return a matrix of the groups with most traffic; all others are one group.  Of a cell of several rows, only sums
    and the worst loss are stated, in seven digits: thousands of cells are sent."""
    single = "r != '' AND c != '' AND count() = 1"
    brief = ", ".join(f"toFloat32({name}) AS {name}" for name in _OF_CELL)
    return f"""SELECT * REPLACE ({brief}) FROM (WITH largest AS (
    SELECT name FROM (
        SELECT arrayJoin([toString({row}), toString({column})]) AS name, bits_per_second
        FROM {source} WHERE {_AT} AND {where})
    WHERE name != '' GROUP BY name ORDER BY sum(bits_per_second) DESC, name LIMIT {{most:UInt32}})
SELECT if({row} IN (SELECT name FROM largest), toString({row}), '') AS r,
    if({column} IN (SELECT name FROM largest), toString({column}), '') AS c,
    {_TOTAL}, {cell}
    if({single}, any({measured}), NULL) AS loss, if({single}, any(m.loss_low), NULL) AS low,
    if({single}, any(m.loss_high), NULL) AS high
FROM {source} AS m WHERE {_AT} AND {where} GROUP BY r, c)"""


_OWN_VMS = "(vm != '' AND ({}))".format(
    " OR ".join(
        f"(vm = {{{end}:String}} AND ({{{end}_uuid:String}} = '' OR vm_uuid = toUUIDOrZero({{{end}_uuid:String}})))"
        for end in ("src", "dst")
    )
)

_BESIDE = """multiIf(
    src_vm = {src_vm:String} AND dst_vm = {dst_vm:String}, 'pair',
    src_vm = {dst_vm:String} AND dst_vm = {src_vm:String}, 'back',
    src_vm = {src_vm:String}, 'from_vm',
    dst_vm = {dst_vm:String}, 'to_vm',
    src_host = '' OR dst_host = '', 'rest',
    src_host = {src_host:String} AND dst_host = {dst_host:String}, 'link',
    src_host = {src_host:String}, 'from_host',
    dst_host = {dst_host:String}, 'to_host',
    'rest')"""

_OWN_VM = "(vm != '' AND vm IN ({src_vm:String}, {dst_vm:String}))"
_OWN_HOST = "(host != '' AND host IN ({src_host:String}, {dst_host:String}))"
_OWN_AGENTS = f"(SELECT agent FROM inventory FINAL WHERE {_OWN_HOST} OR {_OWN_VM})"
_THEN = "BETWEEN toDateTime({from:UInt32}, 'UTC') AND toDateTime({until:UInt32}, 'UTC')"
_NEAR_AGENT = f"""multiIf(reporter = '::', 'service',
    reporter IN {_OWN_AGENTS} OR reporter = toIPv6OrZero({{agent:String}}), 'host', 'elsewhere')"""
_LABELLED = "arrayExists(name -> labels[name] != '' AND labels[name] IN ({{{0}:String}}, {{{1}:String}}), [{2}])"
_CHANGES = f"""SELECT *, count() OVER () AS every FROM (
    SELECT toUnixTimestamp(valid_from) AS t, if(before = '', 'appeared', 'move') AS kind, toString(vm) AS subject,
        if(before = '', toString(host), concat(before, ' → ', host)) AS what, '' AS id,
        multiIf(NOT ({_OWN_HOST} OR before IN ({{src_host:String}}, {{dst_host:String}})), 'elsewhere', {_OWN_VM}, 'vm',
            'host') AS near
    FROM (SELECT vm, toString(host) AS host, valid_from, lagInFrame(toString(host)) OVER (
            PARTITION BY vm, mac ORDER BY valid_from ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
        FROM inventory FINAL WHERE vm != '' AND host != '')
    WHERE valid_from {_THEN} AND before != host AND (before != '' OR near != 'elsewhere')
        AND valid_from > (SELECT min(valid_from) FROM inventory) + toIntervalMinute(1)
    UNION ALL
    SELECT toUnixTimestamp(valid_to), 'gone', toString(vm), toString(host), '', if({_OWN_VM}, 'vm', 'host')
    FROM (SELECT vm, toString(host) AS host, valid_to, open, leadInFrame(toString(host)) OVER (
            PARTITION BY vm, mac ORDER BY valid_from ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS after
        FROM inventory FINAL WHERE vm != '')
    WHERE {_OWN_HOST} AND valid_to {_THEN} AND NOT open AND after = ''
    UNION ALL
    SELECT toUnixTimestamp(min(ends)), toString(reason), replaceRegexpOne(toString(reporter), '^::ffff:', ''),
        concat(toString(protocol), if(count() > 1, concat(' × ', toString(count())), '')), '', {_NEAR_AGENT} AS near
    FROM gaps WHERE ends {_THEN} AND reason != 'started' GROUP BY reporter, protocol, reason
    UNION ALL
    SELECT toUnixTimestamp(argMax(first, last)), 'rate', replaceRegexpOne(toString(reporter), '^::ffff:', ''),
        concat('1:', toString(argMin(sampling_rate, first)), ' → 1:', toString(argMax(sampling_rate, last))), '',
        {_NEAR_AGENT} AS near
    FROM (SELECT exporter, agent AS reporter, protocol, domain, sampling_rate, min(time) AS first, max(time) AS last
        FROM exporters WHERE time {_THEN} AND sampling_rate > 0 AND exporter != '::'
        GROUP BY exporter, agent, protocol, domain, sampling_rate)
    GROUP BY exporter, reporter, protocol, domain HAVING argMin(sampling_rate, first) != argMax(sampling_rate, last)
    UNION ALL
    SELECT toUnixTimestamp(since), 'alert',
        arrayStringConcat(arrayFilter(one -> one != '', [labels['src_vm'], labels['dst_vm'], labels['vm'],
            if(labels['src_vm'] = '', labels['host'], ''), labels['interface'], labels['exporter']]), ' · '),
        toString(rule), alert_id,
        multiIf({_LABELLED.format("src_vm", "dst_vm", "'src_vm', 'dst_vm', 'vm'")}, 'vm',
            {_LABELLED.format("src_host", "dst_host", "'src_host', 'dst_host', 'host'")}, 'host', 'elsewhere')
    FROM alerts FINAL WHERE since {_THEN} AND alert_id != {{id:String}}
)
ORDER BY indexOf(['vm', 'service', 'host', 'elsewhere'], near), abs(toInt64(t) - toInt64({{around:UInt32}})),
    kind, subject
LIMIT 200"""
"""When an interface of a VM began and ended somewhere, when exports had gaps or another rate, other alerts.  What of
the inventory begins elsewhere is of no interest, unless it moved, nor what it knew from its begin.  A VM is that of the
alert where its hypervisor is: names need not be unique."""


def _paths(*layers: str) -> Question:
    """Return volume by what it flows through, column after column: `n0` and so on are names, `k0` and so on say whether
    they are among the largest of their layer; all others of a layer are one."""
    where = f"""{_AT} AND {_NAMED}
    AND ({{vm:String}} = '' OR {{vm:String}} IN (src_vm, dst_vm))
    AND ({{host:String}} = '' OR {{host:String}} IN (src_host, dst_host))
    AND ({{project:String}} = '' OR {{project:String}} IN (src_project, dst_project))
    AND ({{network:String}} = '' OR network = {{network:String}})"""
    largest = ",\n    ".join(
        f"(SELECT groupArray(name) FROM (SELECT toString({layer}) AS name FROM @named_pairs WHERE {where} "
        f"GROUP BY name ORDER BY sum(bits_per_second) DESC NULLS LAST, name LIMIT {{most:UInt32}})) AS top{number}"
        for number, layer in enumerate(layers)
    )
    keys = ", ".join(
        f"has(top{number}, toString({layer})) AS k{number}, if(k{number}, toString({layer}), '') AS n{number}"
        for number, layer in enumerate(layers)
    )
    groups = ", ".join(f"k{number}, n{number}" for number in range(len(layers)))
    return Question(
        f"""WITH {largest}
SELECT {keys}, {_TOTAL}, count() AS pairs, countIf(loss_low > 0) AS lossy, countIf({_BLIND}) AS blind
FROM @named_pairs WHERE {where}
GROUP BY {groups} ORDER BY bits DESC NULLS LAST LIMIT {LARGEST_PATHS}""",
        {"at": 0, "most": 8, "vm": "", "host": "", "project": "", "network": ""},
    )


QUESTIONS = {
    # The newest window that is evaluated; of windows of 10 s, the newest that has closed.
    "newest": Question(
        f"""SELECT toUnixTimestamp(max(time)) AS t, count() AS found FROM @windows
WHERE {_RANGE} AND time <= toDateTime({{closed:UInt32}}, 'UTC')""",
        {**_RANGED, "closed": 0},
    ),
    "summary": Question(
        f"""SELECT count() AS pairs, {_TOTAL},
    countIf(loss_low > 0) AS lossy, max(loss_low) AS worst_low, argMax(loss_ratio, loss_low) AS worst,
    argMax(loss_high, loss_low) AS worst_high,
    countIf({_SLOW}) AS slow, countIf(latency_us IS NOT NULL) AS timed,
    countIf({_CROSSING}) AS crossing, countIf({_BLIND}) AS blind,
    sumIf(bits_per_second, {_BLIND}) AS blind_bits, sumIf(bits_per_second, {_CROSSING}) AS crossing_bits,
    countIf(loss_evidence = 'insufficient') AS insufficient
FROM @pairs WHERE {_AT} AND {_NAMED}""",
        {"at": 0},
    ),
    "totals": Question(
        f"""SELECT toUnixTimestamp(time) AS t, {_TOTAL}, @count AS talking
FROM @cloud WHERE {_RANGE} AND @named GROUP BY time ORDER BY time""",
        _RANGED,
    ),
    "pairs": Question(
        f"""SELECT {_PAIR_COLUMNS}, count() OVER () AS every
FROM @pairs
WHERE {_AT} AND {_NAMED} AND {_LOOK} AND @only
    AND ({{src_host:String}} = '' OR src_host = {{src_host:String}})
    AND ({{dst_host:String}} = '' OR dst_host = {{dst_host:String}})
    AND ({{src_vm:String}} = '' OR src_vm = {{src_vm:String}})
    AND ({{dst_vm:String}} = '' OR dst_vm = {{dst_vm:String}})
ORDER BY @order NULLS LAST, src_vm, dst_vm, network LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}""",
        {"at": 0, **_LOOKED, "src_host": "", "dst_host": "", "src_vm": "", "dst_vm": "", **_PAGE},
        patterns=tuple(_LOOKED),
        sorts={
            "bits": "bits_per_second",
            "packets": "packets_per_second",
            "loss": "loss_ratio",
            "certain": "loss_low",
            "latency": _BY_LATENCY,
            "connections": "connections",
            "errors": "error_ratio",
            "src": "src_vm",
            "dst": "dst_vm",
        },
        only={
            "": "1",
            "lossy": "loss_low > 0",
            "slow": _SLOW,
            "blind": _BLIND,
            "one_way": "latency_trip = 'one_way'",
            "round_trip": "latency_trip = 'round_trip'",
        },
    ),
    # With the hash of the pair it reads little of any range; by name alone, all pairs of the range.
    "pair_series": Question(
        f"""SELECT toUnixTimestamp(time) AS t, {_PAIR_COLUMNS}
FROM @pairs
WHERE {_RANGE} AND pair = @one AND src_vm = {{src:String}} AND dst_vm = {{dst:String}}
ORDER BY time LIMIT {MOST_WINDOWS}""",
        {**_RANGED, "pair": 0, "src": "", "dst": "", "network": "", "src_host": "", "dst_host": ""},
        one=_ONE_PAIR,
    ),
    # What happened to two VMs, or one: moves, alerts, restarts of what exports at their hypervisors.
    "marks": Question(
        """SELECT t, until, kind, subject, what, id FROM (
    SELECT toUnixTimestamp(valid_from) AS t, t AS until, 'move' AS kind, toString(vm) AS subject,
        concat(before, ' → ', host) AS what, '' AS id
    FROM (SELECT vm, toString(host) AS host, valid_from, lagInFrame(toString(host)) OVER (
            PARTITION BY vm, mac ORDER BY valid_from ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
        FROM inventory FINAL WHERE @own AND host != '')
    WHERE before != '' AND before != host
    UNION ALL
    SELECT toUnixTimestamp(since), if(status = 'resolved', toUnixTimestamp(resolved), toUInt32(4294967295)), 'alert',
        toString(severity), toString(rule), alert_id
    FROM alerts FINAL
    WHERE (labels['src_vm'] = {src:String} AND labels['dst_vm'] = {dst:String} AND {dst:String} != '')
        OR ({dst:String} = '' AND {src:String} IN (labels['src_vm'], labels['dst_vm']))
        OR (labels['vm'] != '' AND labels['vm'] IN ({src:String}, {dst:String}))
    UNION ALL
    SELECT toUnixTimestamp(ends), toUnixTimestamp(ends), 'restart', toString(protocol),
        replaceRegexpOne(toString(reporter), '^::ffff:', ''), ''
    FROM gaps WHERE reason IN ('restarted', 'reopened') AND reporter IN (
        SELECT agent FROM inventory FINAL WHERE @own)
)
WHERE until >= {from:UInt32} AND t < {until:UInt32} ORDER BY t DESC LIMIT 200""".replace("@own", _OWN_VMS),
        {**_RANGED, "src": "", "dst": "", "src_uuid": "", "dst_uuid": ""},
    ),
    # Of an alert: how the pairs beside it fare in the newest window until then.  Each pair is in one group.
    "beside": Question(
        f"""SELECT beside, toUnixTimestamp(any(time)) AS t, count() AS pairs,
    countIf(loss_ratio IS NOT NULL) AS measured, countIf(loss_low > {{least_ppm:UInt32}} / 1e6) AS lossy,
    max(loss_low) AS worst, countIf({_BLIND}) AS blind, countIf(latency_us IS NOT NULL) AS timed,
    countIf(latency_us - latency_spread_us > {{least_us:UInt32}}) AS slow, {_TOTAL}
FROM (
    SELECT *, {_BESIDE} AS beside FROM @pairs
    WHERE time = (SELECT max(time) FROM @windows WHERE time <= toDateTime({{at:UInt32}}, 'UTC')
        AND time > toDateTime({{at:UInt32}}, 'UTC') - 7200) AND {_NAMED}
)
GROUP BY beside""",
        {
            "at": 0,
            "src_vm": "",
            "dst_vm": "",
            "src_host": "",
            "dst_host": "",
            "least_ppm": 0,
            "least_us": SLOW_US,
        },
    ),
    # Of an alert: what else happened around that time, what is nearest first.
    "changes": Question(
        _CHANGES,
        {**_RANGED, "around": 0, "src_vm": "", "dst_vm": "", "src_host": "", "dst_host": "", "agent": "", "id": ""},
    ),
    "vms": Question(
        f"""SELECT vm, toString(vm_uuid) AS uuid, max(v.host) AS on_host, max(v.project) AS of_project,
    {_way("sent")},
    {_way("received")},
    max(pairs) AS peers, sum(blind_pairs) AS blind, sum(lossy_pairs) AS lossy, sum(slow_pairs) AS slow,
    max(worst_loss_low) AS worst, count() OVER () AS every
FROM @vms AS v
WHERE {_AT} AND ({{vm:String}} = '' OR vm LIKE {{vm:String}})
    AND ({{host:String}} = '' OR host LIKE {{host:String}})
GROUP BY vm, vm_uuid HAVING @only
ORDER BY @order NULLS LAST, vm, vm_uuid LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}""",
        {"at": 0, "vm": "", "host": "", **_PAGE},
        patterns=("vm", "host"),
        sorts={
            "sent": "sent_bits_per_second",
            "received": "received_bits_per_second",
            "lost": "sent_loss_low",
            "missed": "received_loss_low",
            "worst": "worst",
            "peers": "peers",
            "vm": "vm",
            "host": "on_host",
        },
        only={"": "1", "lossy": "lossy > 0", "slow": "slow > 0", "blind": "blind > 0"},
    ),
    "vm_series": Question(
        f"""SELECT toUnixTimestamp(time) AS t,
    {_way("sent")},
    {_way("received")},
    max(v.host) AS on_host, max(v.project) AS of_project, max(pairs) AS peers, sum(blind_pairs) AS blind,
    toString(any(vm_uuid)) AS uuid
FROM @vms AS v WHERE {_RANGE} AND vm = {{vm:String}} AND vm_uuid = @one
GROUP BY time ORDER BY time LIMIT {MOST_WINDOWS}""",
        {**_RANGED, "vm": "", "uuid": ""},
        one=_one_vm(_RANGE),
    ),
    "vm_peers": Question(
        f"""SELECT peer, toString(peer_uuid) AS uuid, network, max(peer_host) AS peer_on, max(own_host) AS own_on,
    {_between("sent", "dst")},
    {_between("received", "src")},
    count() OVER () AS every
FROM (
    SELECT *, toString(pair) AS pair_id, @one AS own, src_vm = {{vm:String}} AND src_vm_uuid = own AS sends,
        if(sends, 'sent', 'received') AS way,
        if(sends, dst_vm, src_vm) AS peer, if(sends, dst_vm_uuid, src_vm_uuid) AS peer_uuid,
        if(sends, dst_host, src_host) AS peer_host, if(sends, src_host, dst_host) AS own_host
    FROM @pairs WHERE {_AT} AND {{vm:String}} IN (src_vm, dst_vm)
        AND (sends OR (dst_vm = {{vm:String}} AND dst_vm_uuid = own))
)
GROUP BY peer, peer_uuid, network ORDER BY @order NULLS LAST, peer, peer_uuid, network
LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}""",
        {"at": 0, "vm": "", "uuid": "", **_PAGE},
        sorts={
            "bits": "ifNull(sent_bits_per_second, 0) + ifNull(received_bits_per_second, 0)",
            "sent": "sent_bits_per_second",
            "received": "received_bits_per_second",
            "lost": "sent_loss_low",
            "missed": "received_loss_low",
            "peer": "peer",
        },
        one=_one_vm(_AT),
    ),
    "interfaces": Question(
        f"""SELECT host AS on_host, interface, vm AS of_vm, network, in_bits_per_second, out_bits_per_second,
    utilisation, loss_ratio, error_ratio, in_discards + out_discards AS discards, in_errors + out_errors AS errors,
    speed, speed_source, coverage, toString(counters_from) AS counters_from, count() OVER () AS every
FROM @interfaces WHERE {_AT} AND ({{vm:String}} = '' OR vm = {{vm:String}}) AND {_UUID}
    AND ({{host:String}} = '' OR host LIKE {{host:String}})
    AND ({{interface:String}} = '' OR interface LIKE {{interface:String}}) AND @only
ORDER BY @order NULLS LAST, on_host, interface LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}""",
        {"at": 0, "vm": "", "uuid": "", "host": "", "interface": "", **_PAGE},
        patterns=("host", "interface"),
        sorts={
            "used": ("utilisation IS NOT NULL DESC", "utilisation", "in_bits_per_second + out_bits_per_second"),
            "in": "in_bits_per_second",
            "out": "out_bits_per_second",
            "discards": "discards",
            "errors": "errors",
            "interface": "interface",
        },
        only={"": "1", "wrong": "discards + errors > 0", "full": "utilisation > 0.8"},
    ),
    "interface_series": Question(
        f"""SELECT toUnixTimestamp(time) AS t, in_bits_per_second, out_bits_per_second, utilisation, loss_ratio,
    error_ratio, in_discards + out_discards AS discards, in_errors + out_errors AS errors, speed, speed_source,
    coverage, toString(counters_from) AS counters_from, vm AS of_vm, toString(vm_uuid) AS uuid, network
FROM @interfaces WHERE {_RANGE} AND host = {{host:String}} AND interface = {{interface:String}}
ORDER BY time LIMIT {MOST_WINDOWS}""",
        {**_RANGED, "host": "", "interface": ""},
    ),
    "places": Question(
        """SELECT toUnixTimestamp(valid_from) AS begins, toUnixTimestamp(valid_to) AS ends, open, host, network,
    project, port_name, mac_text, arrayMap(ip -> replaceRegexpOne(toString(ip), '^::ffff:', ''), ips) AS addresses,
    sources, conflict, count() OVER () AS every
FROM inventory FINAL WHERE vm = {vm:String} AND ({uuid:String} = '' OR vm_uuid = toUUIDOrZero({uuid:String}))
ORDER BY open DESC, valid_to DESC, mac LIMIT 50""",
        {"vm": "", "uuid": ""},
    ),
    "hosts": Question(
        f"""SELECT host, {quadrature("bits_per_second", "way IN ('sent', 'both')")},
    {quadrature("bits_per_second", "way IN ('received', 'both')", "in_bits")},
    sumIf(bits_per_second, way = 'within') AS within_bits, sum(pairs) AS every_pair, sum(lossy_pairs) AS lossy,
    sum(blind_pairs) AS blind, max(worst_loss_low) AS worst, sum(slow_pairs) AS slow, count() OVER () AS every
FROM (
    SELECT *, arrayJoin(multiIf({_ONE_SWITCH}, [tuple(toString(src_host), 'within')],
        src_host = dst_host, [tuple('', 'both')],
        [tuple(toString(src_host), 'sent'), tuple(toString(dst_host), 'received')])) AS end,
        end.1 AS host, end.2 AS way
    FROM @hosts WHERE {_AT}
)
WHERE ({{host:String}} = '' OR host LIKE {{host:String}})
GROUP BY host ORDER BY @order NULLS LAST, host LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}""",
        {"at": 0, "host": "", **_PAGE},
        patterns=("host",),
        sorts={"sent": "bits", "received": "in_bits", "worst": "worst", "blind": "blind", "host": "host"},
    ),
    "host_series": Question(
        f"""SELECT toUnixTimestamp(time) AS t,
    {_TOTAL}, sumIf(lossy_pairs, src_host = {{host:String}}) AS lossy
FROM @hosts WHERE {_RANGE} AND src_host = {{host:String}} AND dst_host != {{host:String}}
GROUP BY time ORDER BY time LIMIT {MOST_WINDOWS}""",
        {**_RANGED, "host": ""},
    ),
    "host_links": Question(
        f"""SELECT src_host, dst_host, {_BITS}, {_LOSS}, {_LATENCY}, {_COUNTS}, count() OVER () AS every
FROM @hosts WHERE {_AT} AND ({{host:String}} = '' OR src_host = {{host:String}} OR dst_host = {{host:String}}) AND @only
ORDER BY @order NULLS LAST, src_host, dst_host LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}""",
        {"at": 0, "host": "", **_PAGE},
        sorts={"bits": "bits_per_second", "certain": "loss_low", "worst": "worst_loss_low", "latency": _BY_LATENCY},
        only={"": "1", "lossy": "lossy_pairs > 0", "blind": "blind_pairs > 0"},
    ),
    "host_matrix": Question(
        _matrix(
            "@hosts",
            "src_host",
            "dst_host",
            "1",
            "sum(pairs) AS count, sum(lossy_pairs) AS lossy, sum(blind_pairs) AS blind, "
            f"sum(measured_pairs) AS measured, max(worst_loss_low) AS worst, {_WORST_LATENCY},",
            "m.loss_ratio",
        ),
        {"at": 0, "most": LARGEST_MATRIX},
    ),
    "vm_matrix": Question(
        _matrix(
            "@named_pairs",
            "src_vm",
            "dst_vm",
            _NAMED,
            f"count() AS count, countIf(m.loss_low > 0) AS lossy, countIf({_BLIND}) AS blind, "
            "countIf(m.loss_ratio IS NOT NULL) AS measured, max(m.loss_low) AS worst, "
            f"if(count() = 1, toString(any(m.pair)), '') AS pair_id, {_WORST_LATENCY},",
            "m.loss_ratio",
        ),
        {"at": 0, "most": LARGEST_MATRIX},
    ),
    "paths_by_project": _paths("src_project", "src_host", "dst_host", "dst_project"),
    "paths_by_vm": _paths("src_vm", "src_host", "dst_host", "dst_vm"),
    "paths_by_network": _paths("src_project", "network", "dst_project"),
    "coverage": Question(
        f"""SELECT {_STATE} AS state, count() AS pairs, {_TOTAL}
FROM @pairs WHERE {_AT} AND {_NAMED} GROUP BY state ORDER BY bits DESC NULLS LAST""",
        {"at": 0},
    ),
    "coverage_hosts": Question(
        f"""SELECT end.1 AS host, end.2 AS side, count() AS pairs,
    countIf(end.3) AS blind, sum(bits_per_second) AS bits, sumIf(bits_per_second, end.3) AS blind_bits,
    count() OVER () AS every
FROM (
    SELECT *, {_STATE} AS state, arrayJoin([
        tuple(toString(src_host), 'sender', state = 'receiver'),
        tuple(toString(dst_host), 'receiver', state = 'sender')]) AS end
    FROM @pairs WHERE {_AT} AND {_NAMED} AND NOT {_ONE_SWITCH}
)
GROUP BY host, side HAVING blind > 0 ORDER BY blind_bits DESC NULLS LAST, blind DESC, host LIMIT 200""",
        {"at": 0},
    ),
    "coverage_latency": Question(
        f"""SELECT toString(latency_missing) AS reason, count() AS pairs, sum(bits_per_second) AS bits
FROM @pairs WHERE {_AT} AND {_NAMED} GROUP BY reason ORDER BY pairs DESC""",
        {"at": 0},
    ),
    "inventory": Question(
        """SELECT vm, project, host, network, mac_text,
    arrayMap(ip -> replaceRegexpOne(toString(ip), '^::ffff:', ''), ips) AS addresses, port_name, sources, conflict,
    toUnixTimestamp(valid_from) AS begins, open, toUnixTimestamp(valid_to) AS ends, count() OVER () AS every
FROM inventory FINAL
WHERE valid_from <= toDateTime({at:UInt32}, 'UTC') AND (open OR valid_to >= toDateTime({at:UInt32}, 'UTC')) AND vm != ''
    AND ({vm:String} = '' OR vm LIKE {vm:String}) AND ({host:String} = '' OR host LIKE {host:String}) AND @only
ORDER BY @order, vm, mac LIMIT {limit:UInt32} OFFSET {offset:UInt32}""",
        {"at": 0, "vm": "", "host": "", **_PAGE},
        patterns=("vm", "host"),
        sorts={"vm": "vm", "host": "host", "project": "project", "network": "network", "since": "valid_from"},
        only={"": "1", "conflict": "conflict != ''"},
    ),
    "exporters": Question(
        """SELECT replaceRegexpOne(toString(exporter), '^::ffff:', '') AS exporter,
    replaceRegexpOne(toString(agent), '^::ffff:', '') AS agent, toString(protocol) AS protocol, domain,
    toUnixTimestamp(max(time)) AS last_seen, sum(datagrams) AS datagrams, sum(records) AS records,
    sum(export_lost) AS export_lost, sum(samples_lost + agent_drops) AS samples_lost,
    sum(kernel_drops) AS kernel_drops, sum(queue_drops) AS queue_drops,
    argMax(sampling_rate, time) AS rate, argMax(clock_skew_us, time) AS clock_skew_us,
    argMax(findings, time) AS findings, count() OVER () AS every
FROM exporters
WHERE time > now() - toIntervalSecond({back:UInt32}) AND exporter != '::'
GROUP BY exporter, agent, protocol, domain ORDER BY findings = '', exporter, protocol, domain LIMIT 1000""",
        {"back": 900},
    ),
}
"""By name."""
