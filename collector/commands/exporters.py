"""`vmflow exporters`: who exports, how much, and what of it was lost."""

from __future__ import annotations

import argparse

from clickhouse_connect.driver import exceptions as driver

from collector.commands.common import add_settings_arguments, complain, settings_or_none
from collector.store.client import first_line
from collector.store.errors import StoreError
from collector.store.query import ask, connect

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument("--minutes", type=int, default=60, metavar="N", help="look back this far (default: 60)")
    parser.add_argument("--most", type=int, default=100, metavar="N", help="rows at most (default: 100)")
    parser.add_argument("-f", "--format", default="table", help="as for `vmflow query` (default: table)")


def run(args: argparse.Namespace) -> int:
    """Ask table `exporters` and print; exit code 1 if the store cannot be asked."""
    settings = settings_or_none(args)
    if settings is None:
        return 2
    if args.minutes < 1 or args.most < 1:
        complain(args.command, "--minutes and --most must be 1 or more")
        return 2
    try:
        client = connect(settings.store)
        try:
            ask(client, SQL.format(minutes=args.minutes, most=args.most), args.format)
        finally:
            client.close()
    except (StoreError, driver.Error) as error:
        complain(args.command, first_line(error) if isinstance(error, driver.Error) else str(error))
        return 1
    return 0
