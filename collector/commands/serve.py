"""`vmflow run` behind `run.py`, which decides what is loaded first."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from collector.app import STOP_SECONDS, Service
from collector.commands.common import load_settings
from collector.environment import hide
from collector.http.settings import AccessError
from collector.inventory.sources.base import SourceError
from collector.listen.settings import ListenError
from collector.log import get_log, setup
from collector.notify.launcher import Launcher
from collector.notify.receiver import NotifyError
from collector.process.compilers import Compilers
from collector.process.confine import UNCONFINED, ConfineError, Confinement, confine, other_threads
from collector.process.descriptors import DescriptorsError, connections, raise_limit
from collector.process.reach import reach_of
from collector.settings import Settings, load, secret_variables
from collector.store.errors import LeaseTakenError, StoreError
from collector.terminal import UsageError, print_error
from collector.threads import raise_priority, stand_back_all, start_daemon
from collector.threads import run as run_loop
from collector.web.server import WebError

MISTAKES = (
    AccessError, ConfineError, ListenError, NotifyError, SourceError, StoreError, WebError,
)  # fmt: skip
"""Errors that prevent the service from starting with its settings."""

REPLACED = 3
"""Exit code where another collector has the database: it may be gone when the service is started again."""

_log = get_log("run")


def run(args: argparse.Namespace) -> int:
    """As `run.run`, but the process ends here unless the settings are wrong."""
    settings = load_settings(args)
    # What libraries write is for this user alone, too: the engine's files, the cache of kernels.
    os.umask(os.umask(0o077) | 0o077)
    limit = raise_limit()
    try:
        shares = connections(settings, limit)
    except DescriptorsError as error:
        raise UsageError(str(error)) from error
    setup(settings.log)
    if not hide(secret_variables(settings)):
        _log.warning("variables are not hidden: who may read files of this process finds them in /proc/PID/environ")
    _log.info("file descriptors", limit=limit, web=shares.web, sql=shares.sql, streams=shares.streams)
    code = 0
    try:
        temporary = _own_temporary_directory()
    except OSError as error:
        raise UsageError(f"no directory for temporary files: {error.strerror}; let TMPDIR name one") from error
    compilers = Compilers()
    try:
        launcher = Launcher(settings.notify)
        launcher.start()
        compilers.start(temporary)
        confinement = _confined(settings, args.config, temporary)
        if not raise_priority():
            _log.debug("the event loop's thread may not go before the others: see LimitNICE in deploy/vmflow.service")
        reload = partial(load, args.config, args.overrides)
        run_loop(_serve(partial(Service, settings, reload, confinement, launcher, shares, compilers)))
    except LeaseTakenError as error:
        print_error("run", str(error))
        code = REPLACED
    except MISTAKES as error:
        print_error("run", str(error))
        code = 2
    except Exception:  # noqa: BLE001 - Python itself would print it, but too late: see below
        _log.exception("the service ended by a defect of ours")
        code = 1
    finally:
        compilers.kill()
        shutil.rmtree(temporary, ignore_errors=True)
    # All that can be saved is saved.  Python would wait for threads that may never end, and for the engine, which hangs
    # at its own end now and then while connections are open.
    stand_back_all()
    sys.stderr.flush()
    os._exit(code)


def _own_temporary_directory() -> Path:
    """Make a directory for temporary files of this process alone, and have all libraries use it."""
    directory = tempfile.mkdtemp(prefix="vmflow-")
    os.environ["TMPDIR"] = tempfile.tempdir = directory
    return Path(directory)


async def _serve(make: Callable[[], Service]) -> None:
    """Run the service until it is asked to stop."""
    service = make()
    watch = asyncio.create_task(_watch(service.stop.begun))
    try:
        await service.run()
    finally:
        watch.cancel()


async def _watch(begun: asyncio.Event) -> None:
    """Let a thread end the process if its stop takes too long: the event loop itself may be what hangs."""
    await begun.wait()
    start_daemon("late", _end_late)


def _end_late() -> None:
    time.sleep(STOP_SECONDS)
    _log.error("the stop hangs: the process ends", seconds=STOP_SECONDS)
    stand_back_all()
    sys.stderr.flush()
    os._exit(1)


def _confined(settings: Settings, config: Path | None, temporary: Path) -> Confinement:
    """Confine the process as the settings say; the log says how.  Raises ConfineError where it must be and cannot."""
    mode = settings.confine.mode
    if mode == "off":
        _log.warning("not confined: confine.mode is off")
        return UNCONFINED
    try:
        if others := other_threads():
            raise ConfineError(f"threads run already, which would stay as they are: {', '.join(others)}")
        confinement = confine(reach_of(settings, config, temporary))
    except ConfineError as error:
        if mode == "require":
            raise ConfineError(f"confine.mode = 'require': {error}") from error
        _log.warning("not confined: who gets code to run in this process reads what its user may read", why=str(error))
        return Confinement(0, f"off: {error}")
    _log.info("confined", by=confinement.summary)
    return confinement
