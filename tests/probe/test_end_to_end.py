"""A collector and two agents, each in a process of its own: what agents measure is in the tables, once."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.probe.support import ROW, batch
from tests.service import ROOT, Service, running

TOKENS = {"hv1": "agent", "hv2": "agent", "maker": "agent", "op": "operator"}


def free_ports(kind: int, count: int) -> list[int]:
    opened = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    for one in opened:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in opened]
    for one in opened:
        one.close()
    return ports


@contextmanager
def agent(directory: Path, name: str, web: int, own: int, other: int) -> Iterator[subprocess.Popen[str]]:
    (directory / f"{name}.token").write_text(f"token-of-{name}\n")
    config = directory / f"{name}.toml"
    config.write_text(
        f'[agent]\ncollector = "http://127.0.0.1:{web}"\ntoken_file = "{directory}/{name}.token"\n'
        f'[agent.reflector]\nlisten = ["127.0.0.1:{own}"]\n'
        f'[[agent.sessions]]\nto = "127.0.0.1:{other}"\nevery_ms = 200\n'
    )
    command = [sys.executable, "-m", "collector", "agent", "run", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(f"1 session; answers on 127.0.0.1:{own}; results go to"), line
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ask(url: str, name: str, sent: object = None) -> tuple[int, Any]:
    """Send something as JSON, or nothing, with the token of a name."""
    body = None if sent is None else (sent if isinstance(sent, bytes) else json.dumps(sent).encode())
    headers = {"Authorization": f"Bearer token-of-{name}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def rows(service: Service, sql: str) -> list[dict[str, Any]]:
    status, text = ask(f"{service.ready['sql']}/?database=vmflow&default_format=JSONEachRow", "op", sql.encode())
    assert status == 200, text
    return [json.loads(line) for line in text.splitlines()]


def test_what_agents_measure_is_stored_once_also_when_the_collector_was_away(tmp_path: Path) -> None:
    (web,), (one, two) = free_ports(socket.SOCK_STREAM, 1), free_ports(socket.SOCK_DGRAM, 2)
    tokens = [
        {"name": name, "role": role, "token_hash": f"sha256:{hashlib.sha256(f'token-of-{name}'.encode()).hexdigest()}"}
        for name, role in TOKENS.items()
    ]
    vms = tmp_path / "vms.csv"
    vms.write_text("mac,ips,vm,project,host,network\n52:54:00:00:00:01,127.0.0.1,web,p,hv9,red\n")
    settings = (
        f"access.tokens={json.dumps(tokens)}", f"web.port={web}", f'inventory.static=[{{"file": "{vms}"}}]'
    )  # fmt: skip
    with agent(tmp_path, "hv1", web, one, two) as first, agent(tmp_path, "hv2", web, two, one) as second:
        with running(tmp_path, *settings) as service:
            deadline = time.monotonic() + 60
            while len(rows(service, "SELECT agent FROM probes GROUP BY agent")) < 2 and time.monotonic() < deadline:
                time.sleep(0.5)
            handed = {}
            for name, process in (("hv1", first), ("hv2", second)):
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=60)
                found = re.search(r"ended: the collector has (\d+) rows?$", said.strip())
                assert found, said
                assert process.returncode == 0
                handed[name] = int(found[1])

            made = batch(
                {"time_us": time.time_ns() // 10**10 * 10**7 - 10**8}, {"time_us": time.time_ns() // 1000 - 10**8}
            )
            results = f"{service.ready['web']}/api/v1/agent/results"
            assert [ask(results, "maker", made)[0] for _ in range(2)] == [202, 409]
            handed["maker"] = 2
            refused(service, results, made)
            while len(rows(service, "SELECT 1 FROM probes")) < sum(handed.values()) and time.monotonic() < deadline:
                time.sleep(0.2)
            looked_at(service, handed)
            _, text = ask(f"{service.ready['web']}/metrics", "op")
            assert f"vmflow_probe_rows_total {sum(handed.values())}.0" in text
            assert service.stop() == 0
        with running(tmp_path, *settings) as again:
            results = f"{again.ready['web']}/api/v1/agent/results"
            assert [ask(results, "maker", made | {"batch": number})[0] for number in (1, 2)] == [409, 202]


def refused(service: Service, results: str, made: dict[str, Any]) -> None:
    """What an agent may not, and what only an agent may."""
    web, sql = service.ready["web"], service.ready["sql"]
    assert ask(results, "op", made | {"batch": 9})[0] == 403
    assert ask(results, "nobody", made | {"batch": 9})[0] == 401
    assert [ask(f"{web}{path}", "maker")[0] for path in ("/api/v1/rules", "/metrics", "/api/v1/session")] == [403] * 3
    assert ask(f"{web}/api/v1/silences", "maker", {"matchers": {"vm": "*"}, "seconds": 9})[0] == 403
    assert ask(f"{web}/api/v1/session", "maker", {"name": "maker", "password": "token-of-maker"})[0] == 403
    assert ask(f"{sql}/", "maker", b"SELECT 1")[0] == 403
    wrong = made | {"batch": 9, "columns": made["columns"] | {"sent": [ROW["sent"], 11]}}
    status, text = ask(results, "maker", wrong)
    assert (status, json.loads(text)["detail"]) == (422, "row 1: sent is not received + lost")
    assert ask(results, "maker", b" " * (1024 * 1024))[0] == 422
    connection = http.client.HTTPConnection(web.removeprefix("http://"), timeout=30)
    headers = {"Authorization": "Bearer token-of-maker", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/agent/results", None, headers | {"Content-Length": f"{1024 * 1024 + 1}"})
    assert connection.getresponse().status == 413  # before any of it is read
    connection.close()


def looked_at(service: Service, handed: dict[str, int]) -> None:
    found = rows(service, "SELECT agent, count() AS n FROM probes GROUP BY agent")
    assert {row["agent"]: int(row["n"]) for row in found} == handed
    sql = (
        "SELECT src_vm, dst_vm, src_host, network, sum(sent) AS s, sum(received) AS r, sum(lost) AS l, "
        "countIf(round_trips > 0) AS timed, count() AS n, countIf(toUnixTimestamp(time) % 10 = 0) AS aligned "
        "FROM probes WHERE agent != 'maker' GROUP BY ALL"
    )
    (row,) = rows(service, sql)
    assert (row["src_vm"], row["dst_vm"], row["src_host"], row["network"]) == ("web", "web", "hv9", "red")
    assert int(row["s"]) == int(row["r"]) + int(row["l"]) > 10
    assert int(row["n"]) == int(row["aligned"])
    assert 2 <= int(row["timed"]) <= int(row["n"])  # one began before the other answered
    sql = "SELECT count() AS n FROM latency WHERE method = 'probe' AND trip = 'round_trip' AND src_vm = 'web'"
    assert int(rows(service, sql)[0]["n"]) == int(row["timed"])
