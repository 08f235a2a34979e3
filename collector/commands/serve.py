"""`vmflow run`, once `run.py` has seen to what is loaded."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from collector.access.settings import AccessError
from collector.act.settings import ActionError
from collector.app import STOP_SECONDS, Service
from collector.commands.common import settings_or_none
from collector.deliver.answer import DeliverError
from collector.enrich.source import SourceError
from collector.listen.settings import ListenError
from collector.log import get_log, setup
from collector.settings import Settings, load
from collector.store.errors import StoreError
from collector.terminal import complain
from collector.threads import run as run_loop
from collector.threads import start_daemon, step_forward
from collector.web.server import WebError

_log = get_log("run")


def run(args: argparse.Namespace) -> int:
    """As `run.run`, but the process ends here unless the settings are wrong."""
    settings = settings_or_none(args)
    if settings is None:
        return 2
    setup(settings.log)
    if not step_forward():
        _log.debug("the event loop's thread may not go before the others: see LimitNICE in deploy/vmflow.service")
    code = 0
    try:
        run_loop(_serve(settings, partial(load, args.config, args.overrides)))
    except (AccessError, ActionError, DeliverError, ListenError, SourceError, StoreError, WebError) as error:
        complain("run", str(error))
        code = 2
    except Exception:  # noqa: BLE001 - Python itself would tell of it, but too late: see below
        traceback.print_exc()
        code = 1
    # All that can be saved is saved.  Python would wait for threads that may never end, and for the engine, which hangs
    # at its own end now and then while connections are open.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(settings: Settings, reload: Callable[[], Settings]) -> None:
    """Run the service until it is asked to stop."""
    service = Service(settings, reload)
    watch = asyncio.create_task(_watch(service.stop.begun))
    try:
        await service.run()
    finally:
        watch.cancel()


async def _watch(begun: asyncio.Event) -> None:
    """Have a thread end the process if its stop takes too long: the event loop itself may be what hangs."""
    await begun.wait()
    start_daemon("late", _end_late)


def _end_late() -> None:
    time.sleep(STOP_SECONDS)
    _log.error("the stop hangs: the process ends", seconds=STOP_SECONDS)
    sys.stderr.flush()
    os._exit(1)
