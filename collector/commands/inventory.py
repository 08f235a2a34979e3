"""`vmflow inventory`: which VM is where, since when and by which source; and which traffic has no name."""

from __future__ import annotations

import argparse
import json
import math
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from collector.commands.api_client import ServiceError, client_of
from collector.commands.common import add_settings_arguments, load_settings
from collector.commands.output import FORMATS, Result, add_format_argument, show
from collector.commands.query import answer, asking
from collector.inventory.sources.base import parse_mac
from collector.settings import Settings
from collector.store_reader import Bounds
from collector.terminal import UsageError, print_error
from schemas.inventory import INVENTORY
from schemas.text import like

CONFIRMATIONS = 3
"""An interval that holds is confirmed every `inventory.write_seconds`.  One that missed this many is what a killed
service left, or its source does not answer."""
SECONDS, OCTETS = 300, 2 * 2**30
"""Longest time and most memory of a query: `--unattributed` may look back over all of `flows`."""
PATTERNS = ("vm", "project", "host", "network")
ONLY_KNOWN = (*PATTERNS, "source", "at", "history", "conflicts")
"""Options that say nothing about traffic without names, or about sources."""

BRIEF = ("vm", "project", "host", "network", "vni", "vlan", "mac", "ips", "port_name", "sources", "valid_from")
"""Columns that fit a terminal."""

# Results are named as the columns they come from; the inner query keeps the two apart.
SHOWN = {
    "vm_uuid": "if(empty(vm_uuid), '', toString(vm_uuid))",
    "mac": "if(mac = 0, '', mac_text)",
    "agent": "if(agent = toIPv6('::'), '', replaceRegexpOne(toString(agent), '^::ffff:', ''))",
    "source": "toString(source)",
}
IPS = "arrayMap(ip -> replaceRegexpOne(toString(ip), '^::ffff:', ''), {})"

KNOWN = """
SELECT {columns}
FROM (
    SELECT *, mac_text FROM inventory FINAL
    WHERE {conditions}
    ORDER BY valid_from DESC
    {newest}
)
ORDER BY project, vm, mac, valid_from DESC
LIMIT {{most:UInt64}}
"""
NEWEST = "LIMIT 1 BY mac, vm_uuid, vm, host, port_name, network, vni, vlan"
"""A service that was killed leaves intervals open: the one that its successor began counts."""

UNATTRIBUTED = """
SELECT if(mac_number = 0, '', lower(MACNumToString(mac_number))) AS mac,
       {ips} AS ips,
       uniqIf(address, address != toIPv6('::')) AS ip_count,
       arrayMax(sumMappedArrays([place], [packets]).2) AS packets_estimated,
       arrayMax(sumMappedArrays([place], [octets]).2) AS bytes_estimated,
       min(time_received) AS first_seen,
       max(time_received) AS last_seen,
       {exporters} AS exporters
FROM ({source_ends} UNION ALL {destination_ends})
GROUP BY mac_number, if(mac_number = 0, address, toIPv6('::'))
ORDER BY bytes_estimated DESC, mac, ips
LIMIT {{most:UInt64}}
"""
END = """
SELECT time_received, exporter, packets_estimated AS packets, bytes_estimated AS octets,
       {end}_mac AS mac_number, {end}_ip AS address,
       if(sighting IN ('source', 'destination', 'both'), cityHash64(protocol),
          cityHash64(protocol, exporter, agent, domain, sighting)) AS place
FROM flows
WHERE time_received > now64(6) - toIntervalMinute({{minutes:UInt32}})
  AND {end}_vm = '' AND empty({end}_vm_uuid)
  AND ({end}_mac != 0 OR {end}_ip != toIPv6('::'))
  AND bitAnd({end}_mac, 0x010000000000) = 0
  AND {end}_ip < toIPv6('ff00::')
  AND NOT {end}_ip BETWEEN toIPv6('::ffff:224.0.0.0') AND toIPv6('::ffff:255.255.255.255')
  {filters}
"""
"""Traffic that comes from (or goes to) an end without a VM.  Broadcast MACs have the multicast bit, too.

Several switches and protocols report a packet.  Each is counted once by what the ports of VMs saw, of which there is
one where the other end is known, else by the one place that saw most: no sum over places is ever taken.
"""


class SourceState(BaseModel, frozen=True):
    """What /health says of one source of the inventory."""

    up: bool
    age_seconds: float | None
    interfaces: int
    error: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)
    for name in PATTERNS:
        also = ", or UUID" if name == "vm" else ""
        parser.add_argument(f"--{name}", metavar="PATTERN", help=f"only this {name}: name{also}, with * and ?")
    parser.add_argument("--mac", type=_mac, metavar="MAC", help="only this MAC address")
    parser.add_argument("--ip", type=_ip, metavar="IP", help="only this IP address")
    parser.add_argument("--source", choices=INVENTORY["source"].names, help="only what this source knows")
    parser.add_argument("--conflicts", action="store_true", help="only where sources differ")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--at", type=_time, metavar="TIME", help="what was known then (UTC unless it names a zone)")
    what.add_argument("--history", action="store_true", help="all intervals, ended ones too")
    what.add_argument("--unattributed", action="store_true", help="traffic without a VM name, biggest first")
    what.add_argument("--sources", action="store_true", help="how the sources are; asks the running service")
    parser.add_argument("--minutes", type=int, default=60, metavar="N", help="--unattributed looks back this far (60)")
    parser.add_argument("--most", type=int, default=1000, metavar="N", help="rows at most (default: 1000)")
    add_format_argument(parser, engine=True)


def run(args: argparse.Namespace) -> int:
    """Query and print; exit code 1 if store or service does not answer, 2 for a mistake in the call."""
    settings = load_settings(args)
    _check(args)
    if args.sources:
        _print_sources(args, settings)
    else:
        _print_rows(args, settings)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.minutes < 1 or args.most < 1:
        raise UsageError("--minutes and --most must be 1 or more")
    if args.unattributed or args.sources:
        chosen = "--sources" if args.sources else "--unattributed"
        useless = (*ONLY_KNOWN, "mac", "ip") if args.sources else ONLY_KNOWN
        if names := [f"--{name}" for name in useless if getattr(args, name)]:
            raise UsageError(f"{chosen} does not go together with {', '.join(names)}")
    if args.sources and args.format not in FORMATS:
        raise UsageError(f"--format {args.format}: --sources prints {', '.join(FORMATS)}")


def _mac(text: str) -> int:
    try:
        return parse_mac(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None


def _ip(text: str) -> str:
    """The address as the store keeps it, IPv4 mapped."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address; 10.0.0.1 or 2001:db8::1 expected") from None
    return f"::ffff:{address}" if address.version == 4 else str(address)


def _time(text: str) -> int:
    """µs since 1970."""
    expected = "2026-11-25T15:01 or 2026-11-25T16:01+01:00 expected, UTC where no zone is named"
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; {expected}") from None
    if not 1970 < time.year < 2200:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range; {expected}")
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def known(args: argparse.Namespace, write_seconds: float) -> tuple[str, dict[str, Any]]:
    """SQL and its parameters for what table `inventory` holds."""
    parameters: dict[str, Any] = {"most": args.most, "known": math.ceil(CONFIRMATIONS * write_seconds)}
    conditions = ["1"]
    for name in PATTERNS:
        if (pattern := getattr(args, name)) is not None:
            # The inventory keeps names of hosts in lower case.
            parameters[name] = like(pattern.lower() if name == "host" else pattern)
            matches = f"{name} LIKE {{{name}:String}}"
            conditions.append(f"({matches} OR toString(vm_uuid) LIKE {{vm:String}})" if name == "vm" else matches)
    if args.mac is not None:
        parameters["mac"] = args.mac
        conditions.append("mac = {mac:UInt64}")
    if args.ip is not None:
        parameters["ip"] = args.ip
        conditions.append("has(ips, toIPv6({ip:String}))")
    if args.source is not None:
        parameters["source"] = args.source
        conditions.append("has(arrayMap(s -> trimBoth(s), splitByChar(',', toString(sources))), {source:String})")
    if args.conflicts:
        conditions.append("conflict != ''")
    if not args.history:
        conditions.append(_holds(args.at, parameters))
    columns = [*BRIEF, *(("valid_to", "open") if args.history else ()), *(("conflict",) if args.conflicts else ())]
    if args.format != "table":
        columns = [column.name for column in INVENTORY.stored]
    shown = {**SHOWN, "ips": _joined(IPS.format("ips"), args.format)}
    sql = KNOWN.format(
        columns=", ".join(f"{shown[name]} AS {name}" if name in shown else name for name in columns),
        conditions=" AND ".join(conditions),
        newest="" if args.history else NEWEST,
    )
    return sql, parameters


def _holds(at: int | None, parameters: dict[str, Any]) -> str:
    """Condition that an interval holds now, or that it held then."""
    confirmed = "open = 1 AND valid_to > {} - toIntervalSecond({{known:UInt32}})"
    if at is None:
        return confirmed.format("now64(6)")
    parameters["at"] = at
    then = "fromUnixTimestamp64Micro({at:Int64})"
    return f"valid_from <= {then} AND (valid_to > {then} OR ({confirmed.format(then)}))"


def unattributed(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """SQL and its parameters for the ends of flows that have no VM, by MAC address, or by IP where there is none."""
    parameters: dict[str, Any] = {"most": args.most, "minutes": args.minutes}
    filters = ""
    if args.mac is not None:
        parameters["mac"] = args.mac
        filters += " AND {end}_mac = {{mac:UInt64}}"
    if args.ip is not None:
        parameters["ip"] = args.ip
        filters += " AND {end}_ip = toIPv6({{ip:String}})"
    source, destination = (END.format(end=end, filters=filters.format(end=end)) for end in ("src", "dst"))
    seen = IPS.format("arraySort(groupUniqArrayIf(5)(address, address != toIPv6('::')))")
    by = IPS.format("arraySort(groupUniqArray(10)(exporter))")
    sql = UNATTRIBUTED.format(
        ips=_joined(seen, args.format),
        exporters=_joined(by, args.format),
        source_ends=source,
        destination_ends=destination,
    )
    return sql, parameters


def _joined(texts: str, output: str) -> str:
    """Lists as text where a format has none."""
    return f"arrayStringConcat({texts}, ' ')" if output in ("table", "csv") else texts


def _print_rows(args: argparse.Namespace, settings: Settings) -> None:
    sql, parameters = unattributed(args) if args.unattributed else known(args, settings.inventory.write_seconds)
    with asking(settings) as client:
        rows = answer(client, sql, args.format, parameters, Bounds(SECONDS, OCTETS, args.most))
    if rows is None:
        return
    if not rows.result_rows:
        print_error(args.command, _nothing(args))
        return
    show(rows, args.format)
    if len(rows.result_rows) == args.most:
        print_error(args.command, f"only the first {args.most} rows; --most N shows more")


def _nothing(args: argparse.Namespace) -> str:
    """Why there may be no rows, in one line."""
    if args.unattributed:
        return f"all traffic of the last {args.minutes} minutes has VM names, or there was none (`vmflow exporters`)"
    if args.history or args.at or args.conflicts or any(getattr(args, name) for name in (*PATTERNS, "source")):
        return "nothing in the inventory is like that; `vmflow inventory` without filters shows what is known now"
    if args.mac is not None or args.ip is not None:
        return "nothing is known of this address now; --history shows what was, --unattributed whether it has traffic"
    return (
        "no VM is known now: `--sources` shows how the sources are, docs/inventory.md how to set them, --history more"
    )


def _print_sources(args: argparse.Namespace, settings: Settings) -> None:
    rows = [(name, s.up, s.age_seconds, s.interfaces, s.error) for name, s in sorted(_sources(settings).items())]
    if not rows:
        print_error(args.command, "no source is set; docs/inventory.md says how to set one")
        return
    show(Result(("source", "up", "age_seconds", "interfaces", "error"), rows), args.format)


def _sources(settings: Settings) -> dict[str, SourceState]:
    """What /health of the running service says.  Raises ServiceError."""
    if not settings.web.enabled or not settings.web.port:
        raise ServiceError("only the service's web server knows its sources: web.enabled and web.port must be set")
    client = client_of(None, settings)
    try:
        return TypeAdapter(dict[str, SourceState]).validate_python(json.loads(client.health())["inventory"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ServiceError(f"{client.url}/health has no inventory: is that a vmflow of this release?") from error
