"""A process with the alerts stage, for the test that kills it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from collector.alert.settings import AlertSettings, Route
from collector.notice import Group
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from collector.threads import run
from tests.alert.live import Taken, running, traffic
from tests.analyze.named import BEGIN_US, add, vm


class Deadly(Taken):
    """Prints what it is offered, and may die of it."""

    def __init__(self, *, dies: bool) -> None:
        super().__init__()
        self.dies = dies

    def offer(self, group: Group, /) -> None:
        super().offer(group)
        for notice in group.notices:
            print(json.dumps({"key": group.key, "event": notice.event, "id": notice.alert_id, "sql": notice.sql}))
        sys.stdout.flush()
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)


def main(directory: str, what: str) -> None:
    """`kill`: die of the first message.  `deliver`: say that it is delivered.  `nothing`: look at the next window."""
    settings = StoreSettings(url=f"chdb://{Path(directory) / 'store'}", database="killed", sql_port=0)
    client = open_client(settings)
    set_up(client, settings)
    if what == "kill":
        add(client, traffic(vm("a", "host-1"), vm("b", "host-2"), range(20), 200), label="once")
    alerts = AlertSettings(routes=(Route(receivers=("mail",)),), settle_seconds=0)

    async def scenario() -> None:
        async with running(settings, alerts, Deadly(dies=what == "kill")) as live:
            live.now_us = BEGIN_US + 30_000_000
            await live.idle()
            if what == "deliver":
                for group in live.taken.groups:
                    live.alerts.delivered(group, "mail", True)
            await live.close("10s", [0 if what == "kill" else 1])

    run(scenario())
    client.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
