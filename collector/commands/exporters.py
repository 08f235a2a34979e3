"""`vmflow exporters`: list exporters, what they sent and what was lost; find what is wrong with them; retire one."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

from clickhouse_connect.driver import Client

from collector.analyze.doctor import Finding, examine
from collector.commands.api_client import client_of
from collector.commands.common import add_settings_arguments, add_url_argument, add_who_argument, load_settings, who
from collector.commands.output import FORMATS, add_format_argument, show_items
from collector.commands.query import ask, asking
from collector.settings import Settings
from collector.store_reader import Bounds
from collector.terminal import UsageError, say

SQL = """
SELECT replaceRegexpOne(toString(exporter), '^::ffff:', '') AS exporter,
       replaceRegexpOne(toString(agent), '^::ffff:', '') AS agent,
       protocol, domain,
       max(time) AS last_seen,
       sum(datagrams) AS datagrams,
       sum(records) AS flows,
       sum(counter_records) AS counters,
       sum(export_lost) AS export_lost,
       sum(samples_lost + agent_drops) AS samples_lost,
       sum(duplicates) AS duplicates,
       argMax(sampling_rate, time) AS sampling_rate,
       argMax(templates, time) AS templates,
       round(argMax(clock_skew_us, time) / 1e6, 3) AS clock_skew_seconds,
       sumMap(problems) AS problems
FROM exporters
WHERE time > now() - toIntervalMinute({minutes}) AND exporter != '::'
GROUP BY exporter, agent, protocol, domain
ORDER BY datagrams DESC
LIMIT {most}
"""

SECONDS = 60
"""Longest time of the query."""
FIELDS = ("code", "exporter", "agent", "domain", "protocol", "sentence", "repair")
"""Of a finding, as printed for programs."""
PROTOCOLS = ("sflow5", "netflow1", "netflow5", "netflow7", "netflow9", "ipfix")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument("--minutes", type=int, default=60, metavar="N", help="look back this far (default: 60)")
    parser.add_argument("--most", type=int, default=100, metavar="N", help="rows at most (default: 100)")
    add_format_argument(parser, engine=True)
    parser.add_argument(
        "--doctor",
        action="store_true",
        help="say what is wrong with each, and what repairs it",
    )

    actions = parser.add_subparsers(dest="action", title="actions", metavar="retire")
    retire = actions.add_parser(
        "retire",
        help="an exporter was taken away on purpose: it is not missed any more, until it sends again",
        description="Tell the running service that an exporter was taken away on purpose: its alert ends, and it is "
        "not missed any more, until it sends again.  Without options, all streams of the address.",
    )
    retire.add_argument("exporter", metavar="ADDRESS", help="where its datagrams came from")
    retire.add_argument("--protocol", choices=PROTOCOLS, help="only streams of this protocol")
    retire.add_argument("--domain", type=int, metavar="N", help="only this observation domain, sub-agent or engine")
    retire.add_argument("--agent", metavar="ADDRESS", help="only this sFlow agent")
    retire.add_argument("--comment", default="", metavar="TEXT", help="why")
    add_url_argument(retire)
    add_who_argument(retire)
    add_format_argument(retire)
    add_settings_arguments(retire)


def run(args: argparse.Namespace) -> int:
    """Ask table `exporters` and print; exit code 1 if the store or the service cannot be asked."""
    settings = load_settings(args)
    if args.action == "retire":
        return retire(args, settings)
    if args.minutes < 1 or args.most < 1:
        raise UsageError("--minutes and --most must be 1 or more")
    if args.doctor and args.format not in FORMATS:
        raise UsageError(f"--format {args.format}: --doctor prints {', '.join(FORMATS)}")
    with asking(settings) as client:
        if args.doctor:
            _print(findings(client, args.minutes)[: args.most], args.format)
        else:
            bounds = Bounds(SECONDS, rows=args.most)
            ask(client, SQL.format(minutes=args.minutes, most=args.most), args.format, bounds)
    return 0


def retire(args: argparse.Namespace, settings: Settings) -> int:
    """Make the service stop expecting these streams, and print them."""
    wanted = {name: getattr(args, name) for name in ("exporter", "agent", "domain", "protocol")}
    body = {name: value for name, value in wanted.items() if value is not None}
    client = client_of(args.url, settings)
    retired = client.post("/exporters/retire", body | {"who": who(args), "comment": args.comment})["retired"]
    show_items(retired, args.format, lambda: _print_retired(retired))
    return 0


def _print_retired(streams: Sequence[Mapping[str, Any]]) -> None:
    """Print what is not expected any more, for people."""
    for one in streams:
        agent = f", agent {one['agent']}" if one["agent"] not in ("::", one["exporter"]) else ""
        say(f"not expected any more: {one['exporter']} {one['protocol']}, domain {one['domain']}{agent}")


def findings(client: Client, minutes: int) -> list[Finding]:
    """What is wrong with the exporters heard in the last `minutes`."""
    return examine(client, time.time_ns() // 1000, minutes * 60)


def _print(found: Sequence[Finding], output: str) -> None:
    """Print findings; in CSV the lines that repair stand in one cell."""
    items = [{name: getattr(finding, name) for name in FIELDS} for finding in found]
    if output == "csv":
        items = [item | {"repair": "; ".join(item["repair"])} for item in items]
    show_items(items, output, lambda: _print_findings(found))


def _print_findings(found: Sequence[Finding]) -> None:
    """Print findings for people."""
    if not found:
        say("nothing found")
    for finding in found:
        stream = f"{finding.exporter} {finding.protocol}, domain {finding.domain}"
        if finding.agent not in ("::", finding.exporter):
            stream += f", agent {finding.agent}"
        say(f"{stream}: {finding.code}", f"  {finding.sentence}")
        say(*(f"    {line}" for line in finding.repair))
