"""A process with the alerts stage and a webhook, for the test that kills it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from collector.alert.settings import AlertSettings, Route
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from collector.threads import run
from tests.alert.support import delivered, delivering, traffic
from tests.flow_rows import BEGIN_US, add, vm


def main(directory: str, address: str, what: str) -> None:
    """`fire`: raise an alert, then wait to be killed.  `again`: start, deliver what is to be delivered, end."""
    settings = StoreSettings(url=f"chdb://{Path(directory) / 'store'}", database="killed")
    client = open_client(settings)
    set_up(client, settings)
    if what == "fire":
        add(client, traffic(vm("a", "host-1"), vm("b", "host-2"), range(20), 200), label="once")
    alerts = AlertSettings(routes=(Route(receivers=("hook",)),), settle_seconds=0)

    async def scenario() -> None:
        async with delivering(settings, alerts, address) as live:
            live.now_us = BEGIN_US + 30_000_000
            await live.idle()
            await live.close("10s", [0 if what == "fire" else 1])
            if what == "fire":
                await asyncio.sleep(600)
            await delivered(live)

    run(scenario())
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
