"""A second service on the same database of a server: it does not start, and takes nothing from the first."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from collector.metrics import Metrics
from collector.store.lease import Lease
from collector.store.settings import StoreSettings
from tests.service import ROOT, running


def test_one_service_at_a_time_stores_into_a_database(server_store: StoreSettings, tmp_path: Path) -> None:
    mine = [f"store.database={server_store.database}"]
    directory = tmp_path / "first"
    with running(directory, *mine, store=server_store.url) as first:
        options = [f"store.url={server_store.url}", *mine, f"store.spool_directory={tmp_path}/spool", "web.port=0"]
        command = [sys.executable, "-m", "collector", "run", "--set", 'listen.addresses=["127.0.0.1:0"]']
        for option in options:
            command += ["--set", option]
        second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)

        assert second.returncode == 3, second.stderr
        reported = second.stderr.splitlines()[-1]
        assert reported.startswith(f"vmflow run: another vmflow stores into database {server_store.database} of ")
        assert f"pid {first.process.pid}, since " in reported
        first.process.kill()
        first.process.wait(30)

    with running(directory, *mine, store=server_store.url) as again:
        assert again.stop() == 0

    # A stop says that it is over: nobody waits for who is gone.
    other = server_store.model_copy(update={"spool_directory": tmp_path / "spool"})
    Lease(other, Metrics(), asyncio.to_thread).claim()
