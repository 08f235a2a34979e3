"""Take the pictures of docs/console.md: `vmflow demo` in a process of its own, its console in Debian's chromium.

    python -m bench.pictures [NAME …]

It takes six minutes, until what goes wrong in the demo stands in stored figures.  The page must be built (`make page`).
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SECONDS = 900
"""The demo ends by itself after so long, if this process cannot end it."""
SEEN_SECONDS = 345
"""When loss, latency, a move, a restart and a blind hypervisor have been (docs/demo.md)."""
SIZE = {"width": 1280, "height": 860}


def links(page: Any) -> dict[str, str]:
    """Return the addresses of the pictures, as the console's own links lead to them."""
    page.goto("/alerts")
    page.wait_for_selector("tbody tr a")
    alert = page.locator("tbody tr:has-text('pair_loss') td.wide a").first.get_attribute("href")
    page.goto("/pairs?only=lossy&sort=certain")
    page.wait_for_selector("tbody tr a")
    pair = page.locator("tbody tr a").first.get_attribute("href")
    vm = page.locator("tbody tr a.to").first.get_attribute("href")
    return {
        "overview": "/", "alert": alert, "pair": pair, "vm": vm, "matrix": "/matrix?colour=loss",
        "paths": "/paths", "coverage": "/coverage",
    }  # fmt: skip


def taken(page: Any, name: str, address: str) -> None:
    """Save one picture."""
    page.goto(address)
    page.wait_for_selector("main .card")
    page.wait_for_selector(".skeleton", state="detached")
    page.wait_for_timeout(700)
    page.screenshot(path=IMAGES / f"console-{name}.png")
    print(name, address, flush=True)


def main() -> None:
    """Run the demo, wait, take the pictures that are asked for, all by default."""
    command = [sys.executable, "vmflow.py", "demo", "--seconds", str(SECONDS)]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo,
        sync_playwright() as playwright,
    ):
        try:
            assert demo.stdout is not None
            url = next(found[1] for line in demo.stdout if (found := re.search(r"(http://\S+)/metrics", line)))
            time.sleep(SEEN_SECONDS)
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_context(
                base_url=url, viewport=SIZE, color_scheme="dark", locale="en-GB", timezone_id="UTC"
            ).new_page()
            wanted = links(page)
            for name in sys.argv[1:] or wanted:
                taken(page, name, wanted[name])
            browser.close()
        finally:
            demo.terminate()


if __name__ == "__main__":
    main()
