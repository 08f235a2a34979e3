"""`vmflow run`, once `run.py` has seen to what is loaded."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial

from collector.access.settings import AccessError
from collector.act.settings import ActionError
from collector.app import Service
from collector.commands.common import complain, settings_or_none
from collector.deliver.answer import DeliverError
from collector.descriptors import Connections, DescriptorsError, connections, raise_limit
from collector.enrich.source import SourceError
from collector.listen.settings import ListenError
from collector.log import get_log, setup
from collector.settings import Settings, load
from collector.store.errors import StoreError
from collector.threads import run as run_loop
from collector.threads import step_forward
from collector.web.server import WebError

_log = get_log("run")


def run(args: argparse.Namespace) -> int:
    """As `run.run`."""
    settings = settings_or_none(args)
    if settings is None:
        return 2
    # Also what libraries write is nobody else's: the engine's files, the cache of kernels.
    os.umask(os.umask(0o077) | 0o077)
    limit = raise_limit()
    try:
        shares = connections(settings, limit)
    except DescriptorsError as error:
        complain("run", str(error))
        return 2
    setup(settings.log)
    _log.info("file descriptors", limit=limit, web=shares.web, sql=shares.sql, streams=shares.streams)
    if not step_forward():
        _log.debug("the event loop's thread may not go before the others: see LimitNICE in deploy/vmflow.service")
    code = 0
    stuck: list[str] = []
    try:
        run_loop(_serve(settings, partial(load, args.config, args.overrides), shares, stuck))
    except (AccessError, ActionError, DeliverError, ListenError, SourceError, StoreError, WebError) as error:
        complain("run", str(error))
        code = 2
    if stuck:
        # Python would wait for their threads; all that can be saved is saved.
        sys.stderr.flush()
        os._exit(code)
    return code


async def _serve(settings: Settings, reload: Callable[[], Settings], shares: Connections, stuck: list[str]) -> None:
    """Run the service until it is asked to stop; adds the stages whose calls did not end to `stuck`."""
    service = Service(settings, reload, shares)
    try:
        await service.run()
    finally:
        stuck += service.bridge.stuck
