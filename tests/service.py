"""Runs the real service in a process of its own, for tests that go through UDP, the store and HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from collector.capture.read import read_capture

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures/pcaps"
START_SECONDS = 400
"""The first start on a machine compiles the kernels."""
LOOPBACK = ["127.0.0.1:0", "[::1]:0"]


@dataclass
class Service:
    """A running `vmflow run`."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    """Fields of the log line that says it is ready."""
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def udp(self) -> list[str]:
        return str(self.ready["listening"]).split()

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query over the ClickHouse HTTP interface."""
        request = urllib.request.Request(
            f"{self.ready['sql']}/?database=vmflow&default_format=JSONEachRow", data=sql.encode()
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return [json.loads(line) for line in response.read().splitlines()]

    def get(self, path: str) -> str:
        """A page of the web server."""
        with urllib.request.urlopen(f"{self.ready['web']}{path}", timeout=10) as response:
            return str(response.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric, of those with these labels."""
        lines = [line for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        chosen = [line for line in lines if all(f'{label}="{value}"' in line for label, value in labels.items())]
        values = [float(line.rsplit(" ", 1)[1]) for line in chosen if line.split("{")[0].split(" ")[0] == name]
        return sum(values)

    def wait_for_rows(self, sql: str, count: int, seconds: float = 30) -> int:
        """Ask `sql` (one number named `n`) until it reaches `count`, and a moment longer: too many would show."""
        deadline = time.monotonic() + seconds
        found = -1
        while time.monotonic() < deadline:
            found = int(self.query(sql)[0]["n"])
            if found >= count:
                time.sleep(0.5)
                return int(self.query(sql)[0]["n"])
            time.sleep(0.1)
        return found

    def stop(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def running(
    directory: Path,
    *overrides: str,
    store: str = "",
    config: Path | None = None,
    descriptors: int = 0,
    environment: Mapping[str, str] = MappingProxyType({}),
    program: Sequence[str] = (),
) -> Iterator[Service]:
    """Start the service on free ports with its data in `directory`; kills it in the end if it still runs.

    `config` is a settings file beside the overrides; `descriptors` how many it may have, if not as many as we;
    `environment` are variables beside ours.
    `program` starts a vmflow that is installed elsewhere, away from the tree.
    """
    command = [
        *(program or (sys.executable, "-m", "collector")), "run", *(["--config", str(config)] if config else []),
        "--set", f"listen.addresses={json.dumps(LOOPBACK)}",
        "--set", f"store.url={store or f'chdb://{directory}/store'}",
        "--set", f"store.spool_directory={directory}/spool",
        "--set", f"decode.template_file={directory}/templates.json",
        "--set", "sql.port=0", "--set", "web.port=0", "--set", "log.format=json",
    ]  # fmt: skip
    for override in overrides:
        command += ["--set", override]
    if descriptors:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("VMFLOW_")}
    ours |= {"VMFLOW_CONFIG": "", **environment}
    folder = directory if program else ROOT
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=ours)
    log: list[dict[str, Any]] = []
    ready = threading.Event()
    reader = threading.Thread(target=_read, args=(process, log, ready), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready.wait(0.1):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the service did not start, exit code {process.poll()}: {log}")
        yield Service(process, next(line for line in log if line.get("event") == "ready"), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        if process.stderr is not None:
            process.stderr.close()


def _read(process: subprocess.Popen[str], log: list[dict[str, Any]], ready: threading.Event) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"text": line.rstrip()}
        log.append(entry)
        if entry.get("event") == "ready":
            ready.set()


def replay(target: str, *files: Path, rate: int = 4000) -> None:
    """Send captures with the product's own command, slowly enough for the smallest receive buffer."""
    command = [sys.executable, "-m", "collector", "replay", *map(str, files), "--to", target, "--rate", str(rate)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=120)


def send(target: str, payloads: list[bytes], source: str, pause_seconds: float = 0.001) -> None:
    """Send datagrams from one exporter address that no other test uses, so that nothing is taken for a duplicate."""
    host, port = target.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.bind((source, 0))
        for payload in payloads:
            exporter.sendto(payload, (host, int(port)))
            time.sleep(pause_seconds)


def payloads(name: str) -> list[bytes]:
    """The datagrams of a fixture."""
    return [item.payload for item in read_capture(FIXTURES / f"{name}.pcap")]
