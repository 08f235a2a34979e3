"""A real Alertmanager on loopback, for tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("prometheus-alertmanager")
MISSING = "prometheus-alertmanager is missing: apt-get install prometheus-alertmanager"

CONFIG = """
route: {{receiver: hook, group_by: [alertname], group_wait: 0s, group_interval: 1s}}
receivers:
  - name: hook
    webhook_configs: [{{url: "http://{hook}/alertmanager", send_resolved: true}}]
"""


@dataclass
class Alertmanager:
    """A running one."""

    address: str

    def alerts(self) -> list[dict[str, Any]]:
        """What it takes for firing."""
        with urllib.request.urlopen(f"http://{self.address}/api/v2/alerts", timeout=10) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())
        return found

    def wait(self, holds: Callable[[list[dict[str, Any]]], bool], seconds: float = 30) -> list[dict[str, Any]]:
        """The alerts, once `holds` is true of them."""
        deadline = time.monotonic() + seconds
        while not holds(found := self.alerts()):
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return found


@contextmanager
def alertmanager(directory: Path, hook: str) -> Iterator[Alertmanager]:
    """Start one that tells `hook` (host:port) of its alerts."""
    assert PROGRAM is not None, MISSING
    config = directory / "alertmanager.yml"
    config.write_text(CONFIG.format(hook=hook))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        PROGRAM, f"--config.file={config}", f"--storage.path={directory}/data",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        made = Alertmanager(address)
        deadline = time.monotonic() + 60
        while True:
            try:
                made.alerts()
                break
            except OSError:
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield made
    finally:
        process.terminate()
        process.wait(20)
