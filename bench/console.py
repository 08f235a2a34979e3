"""The first picture of each page of the console: how many octets it takes, how many questions, how long.

    python -m bench.console [--pairs 100000] [--store DIRECTORY]

A made-up store of `bench.figures` (10,000 VMs on 200 hypervisors), the real web server over it, and Debian's chromium
on the same machine.  Each page is opened in a browser that has kept nothing, and measured until nothing is asked any
more.  Exit code 1 if one takes more than is allowed.  With `--store`, the store is kept there, and filled only once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clickhouse_connect.driver import Client

from bench.figures import MINUTE_S, fill
from bench.load import machine
from collector.alert.settings import AlertSettings
from collector.analyze.figures import read_due, store_window
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from tests.web.support import served

WINDOWS = 3
MOST_OCTETS = 150_000
"""Of a first picture, packed as the browser got it, with all scripts; the editor of SQL is not part of it."""
MOST_QUESTIONS = 8
SETTLED = "() => !document.querySelector('.skeleton') && document.querySelector('main .card, main .tiles, main .empty')"
MEASURE = """() => {
    const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
    const paint = performance.getEntriesByName('first-contentful-paint')[0];
    return {
        octets: all.reduce((sum, one) => sum + one.encodedBodySize, 0),
        data: all.filter(one => one.name.includes('/api/')).reduce((sum, one) => sum + one.encodedBodySize, 0),
        questions: all.filter(one => one.name.includes('/ask/')).length, requests: all.length,
        painted: paint ? paint.startTime : null,
        settled: Math.max(...all.filter(one => !one.name.includes('/events')).map(one => one.responseEnd)),
    };
}"""
PAGES = {
    "overview": "/", "pairs": "/pairs", "pair": "/pairs/{src}/{dst}", "VMs": "/vms", "VM": "/vms/{src}",
    "hypervisors": "/hosts", "hypervisor": "/hosts/host-0", "matrix of hypervisors": "/matrix",
    "matrix of VMs": "/matrix?by=vm", "paths": "/paths", "coverage": "/coverage", "exporters": "/exporters",
    "inventory": "/inventory", "alerts": "/alerts", "rules": "/rules", "service": "/service",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """What one page took."""

    octets: int
    data: int
    """Of them, answers of the API."""
    questions: int
    requests: int
    painted: float | None
    """When the first text was there, and when the last answer had come, in ms since the page was asked for."""
    settled: float

    @property
    def good(self) -> bool:
        """Whether it is within what is allowed."""
        return self.octets <= MOST_OCTETS and self.questions <= MOST_QUESTIONS


def prepared(client: Client, pairs: int) -> dict[str, str]:
    """Fill the store and store its figures; return the names of one pair."""
    fill(client, pairs, WINDOWS)
    (newest,) = client.query("SELECT toUnixTimestamp(max(time)) FROM pair_1m").result_rows[0]
    for window in read_due(client, "1m", {"begin": newest - 3600, "end": newest + MINUTE_S}):
        store_window(client, "1m", window, time.time_ns() // 1000, 8)
    src, dst = client.query("SELECT src_vm, dst_vm FROM pair_1m LIMIT 1").result_rows[0]
    return {"src": src, "dst": dst}


def measured(browser: Any, url: str) -> Picture:
    """Open a page in a browser that has kept nothing."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.wait_for_function(SETTLED, timeout=60_000)
    page.wait_for_timeout(500)  # what the page asks for once the first answers are there
    page.wait_for_function(SETTLED, timeout=60_000)
    found = page.evaluate(MEASURE)
    context.close()
    return Picture(**found)


def main() -> None:
    """Print the machine and all pages."""
    parser = argparse.ArgumentParser(prog="python -m bench.console", description=__doc__)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--store", type=Path)
    args = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("bench.console needs chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - of extra `test`

    print(machine())
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        settings = StoreSettings(url=f"chdb://{args.store or Path(scratch) / 'store'}")
        client = open_client(settings)
        set_up(client, settings)
        names = prepared(client, args.pairs)
        with served(settings, AlertSettings(enabled=False)) as running, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            measured(browser, running.url)  # loads the API
            for name, path in PAGES.items():
                found = measured(browser, running.url + path.format(**names))
                good = good and found.good
                print(
                    f"{name}: {found.octets / 1000:.0f} kB ({found.data / 1000:.0f} kB of answers), "
                    f"{found.questions} questions, {found.requests} requests, "
                    f"first text after {found.painted or 0:.0f} ms, "
                    f"last answer after {found.settled:.0f} ms{'' if found.good else '  TOO MUCH'}",
                    flush=True,
                )
            browser.close()
        client.close()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
