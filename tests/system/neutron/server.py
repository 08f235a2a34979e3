"""Brings Debian's neutron-server up in a directory of its own, on loopback, without Keystone, RabbitMQ and agents."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

CONFIGURATION = """
[DEFAULT]
bind_host = 127.0.0.1
bind_port = {port}
state_path = {directory}
core_plugin = ml2
service_plugins = segments
auth_strategy = noauth
transport_url = fake:/
api_workers = 0
rpc_workers = 0
notify_nova_on_port_status_changes = False
notify_nova_on_port_data_changes = False
api_paste_config = /usr/share/neutron-common/api-paste.ini
# Smaller than what is created, so that every listing takes several pages.
pagination_max_limit = {page}
[database]
connection = sqlite:///{directory}/neutron.sqlite
[quotas]
default_quota = -1
quota_port = -1
quota_network = -1
quota_subnet = -1
[ml2]
type_drivers = flat,vlan,vxlan,geneve
tenant_network_types = vxlan
mechanism_drivers = openvswitch
[ml2_type_vlan]
network_vlan_ranges = physnet1:100:200,physnet2:100:200
[ml2_type_vxlan]
vni_ranges = 1000:2000
[ml2_type_geneve]
vni_ranges = 3000:4000
max_header_size = 38
[oslo_concurrency]
lock_path = {directory}
"""
SYSTEM_PYTHON = "/usr/bin/python3"
SCHEMA = Path(__file__).parent / "create_schema.py"
START_SECONDS = 120


def missing() -> str:
    """Why Neutron cannot be started here; empty if it can."""
    if shutil.which("neutron-server") is None:
        return "needs the Debian package neutron-common (program neutron-server)"
    return ""


class Neutron:
    """One server; `start` and `stop` as often as you like, on the same port and database."""

    def __init__(self, directory: Path, page: int) -> None:
        """`page` is the most objects that the server puts on a page."""
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self._configuration = directory / "neutron.conf"
        self._configuration.write_text(
            CONFIGURATION.format(port=self.url.rpartition(":")[2], directory=directory, page=page)
        )
        database = directory / "neutron.sqlite"
        subprocess.run([SYSTEM_PYTHON, str(SCHEMA), f"sqlite:///{database}"], check=True, capture_output=True)
        self._process: subprocess.Popen[bytes] | None = None

    def add_agent(self, host: str, **configuration: object) -> None:
        """Enter an Open vSwitch agent that reported in 2099, for ports to be bound on `host`: so Neutron takes it to be
        alive.  Agents report through the message bus, which is missing here."""
        row = {
            "id": str(uuid4()),
            "agent_type": "Open vSwitch agent",
            "binary": "neutron-openvswitch-agent",
            "topic": "N/A",
            "host": host,
            "admin_state_up": 1,
            "created_at": "2026-01-01 00:00:00",
            "started_at": "2026-01-01 00:00:00",
            "heartbeat_timestamp": "2099-01-01 00:00:00",
            "configurations": json.dumps(
                {
                    "tunnel_types": ["vxlan", "geneve"],
                    "bridge_mappings": {"physnet1": "br-ex", "physnet2": "br-ex2"},
                    "datapath_type": "system",
                    **configuration,
                }
            ),
        }
        with sqlite3.connect(self._directory / "neutron.sqlite") as database:
            marks = ", ".join("?" * len(row))
            database.execute(f"INSERT INTO agents ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
        database.close()

    def start(self) -> None:
        """Start, and wait until the API answers."""
        with (self._directory / "neutron.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["neutron-server", "--config-file", str(self._configuration)],
                stdout=log,
                stderr=log,
                start_new_session=True,  # its workers are ended with it
            )
        ends = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < ends:
            try:
                self.call("GET", "/extensions")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
            else:
                return
        self.stop()
        tail = (self._directory / "neutron.log").read_text()[-2000:]
        raise AssertionError(f"neutron-server does not answer:\n{tail}")

    def stop(self) -> None:
        """Stop the server with all its workers."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        except ProcessLookupError:
            process.wait(30)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """What the API answers, as JSON; None where it answers nothing."""
        request = urllib.request.Request(
            f"{self.url}/v2.0{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error}: {error.read().decode()}") from error
        return json.loads(text) if text else None

    def create(self, kind: str, **attributes: object) -> dict[str, Any]:
        """Create a `network`, `subnet` or `port`; names with a colon have an underscore twice: `binding__host_id`."""
        made = self.call("POST", f"/{kind}s", {kind: _attributes(attributes)})
        return dict(made[kind])

    def update(self, kind: str, key: str, **attributes: object) -> dict[str, Any]:
        """Change one."""
        return dict(self.call("PUT", f"/{kind}s/{key}", {kind: _attributes(attributes)})[kind])

    def delete(self, kind: str, key: str) -> None:
        """Delete one."""
        self.call("DELETE", f"/{kind}s/{key}")


def _attributes(attributes: dict[str, object]) -> dict[str, object]:
    return {name.replace("__", ":"): value for name, value in attributes.items()}
