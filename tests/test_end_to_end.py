"""UDP in, rows out: every capture through the real service, against what the decoders give for the file."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from collector.capture.read import read_batches
from collector.commands.decode import rows as text_rows
from decoders.decoder import Decoder
from schemas.flows import FLOWS
from tests.service import FIXTURES, ROOT, Service, payloads, replay, running, send

CAPTURES = sorted(FIXTURES.glob("*.pcap"))
COLUMNS = [
    "agent",
    "domain",
    "protocol",
    "packets",
    "bytes",
    "frame_bytes",
    "sampling_rate",
    "rate_source",
    "samples",
    "src_mac_text",
    "dst_mac_text",
    "ether_type",
    "vlan",
    "tunnel",
    "vni",
    "outer_src_ip",
    "outer_dst_ip",
    "src_ip",
    "dst_ip",
    "ip_protocol",
    "src_port",
    "dst_port",
    "tcp_flags",
    "tcp_seq",
    "icmp_type",
    "icmp_code",
    "tos",
    "ttl",
    "fragment",
    "in_if",
    "out_if",
    "in_if_name",
    "out_if_name",
    "out_kind",
    "drop_reason",
    "direction",
    "end_reason",
    "drop_hint_packets",
]
"""What does not depend on when and from where a capture is replayed."""


def key(row: dict[str, Any]) -> str:
    """A row without its begin: a record that goes on with a flow begins where the last one ended, and all captures come
    from one address here (tests/decode/test_flow_starts.py looks at begins)."""
    values = [str(row[name]).removeprefix("::ffff:") for name in COLUMNS]
    if row["protocol"] != "sflow5":
        values += [str(row["flow_end"])]
    return " ".join(values)


begins: Counter[str] = Counter()
"""When records say that they began, once `expected` was asked."""


@cache
def expected() -> Counter[str]:
    """Rows of all captures, each decoded as one file."""
    counted: Counter[str] = Counter()
    begins.clear()
    for file in CAPTURES:
        decoder = Decoder()
        for batch in read_batches(file):
            for part in decoder.decode(batch).flows:
                for row in text_rows(FLOWS, part):
                    if row["protocol"] != "sflow5":
                        begins[str(row["flow_start"])] += 1
                    row |= {"src_mac_text": row["src_mac"], "dst_mac_text": row["dst_mac"]}
                    counted[key(row)] += 1
    return counted


def stored(service: Service) -> Counter[str]:
    names = ", ".join([*COLUMNS, "flow_end"])
    return Counter(key(row) for row in service.query(f"SELECT {names} FROM flows"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as started:
        yield started


def test_every_capture_over_udp_gives_its_rows_none_missing_none_twice(service: Service) -> None:
    for file in CAPTURES:
        replay(service.udp[0], file)
    total = sum(expected().values())

    assert total > 10_000
    assert service.wait_for_rows("SELECT count() AS n FROM flows", total) == total
    assert stored(service) == expected()
    rows = service.query("SELECT flow_start FROM flows WHERE protocol != 'sflow5'")
    assert (Counter(str(row["flow_start"]) for row in rows) & begins).total() > 0.9 * begins.total()
    assert service.metric("vmflow_listen_kernel_drops_total") == 0


def test_rows_can_be_asked_within_two_seconds(service: Service) -> None:
    before = int(service.query("SELECT count() AS n FROM flows")[0]["n"])
    send(service.udp[0], payloads("fprobe_v5"), "127.0.0.71")
    time.sleep(2)

    assert int(service.query("SELECT count() AS n FROM flows")[0]["n"]) == before + 26


def test_counters_and_exporters_are_stored_too(service: Service) -> None:
    assert int(service.query("SELECT count() AS n FROM interface_counters")[0]["n"]) > 100
    sql = "SELECT protocol, sum(datagrams) AS n FROM exporters WHERE exporter != '::' GROUP BY protocol"
    rows = service.query(sql)
    deadline = time.monotonic() + 15
    while len(rows) < 4 and time.monotonic() < deadline:
        time.sleep(0.5)
        rows = service.query(sql)

    assert {row["protocol"] for row in rows} == {"sflow5", "netflow5", "netflow9", "ipfix"}


def test_columns_say_in_the_store_what_they_mean(service: Service) -> None:
    for table, least in (("flows", 50), ("pair_metrics", 40)):
        sql = f"SELECT countIf(comment != '') AS n, count() AS of FROM system.columns WHERE table = '{table}'"
        (row,) = service.query(sql)
        assert int(row["n"]) == int(row["of"]) > least


def test_hostile_datagrams_are_counted_and_the_next_capture_is_whole(service: Service) -> None:
    rng = random.Random(5)
    before = int(service.query("SELECT count() AS n FROM flows WHERE protocol = 'netflow5'")[0]["n"])
    for start in (b"", b"\0\0\0\5", b"\0\5", b"\0\x09", b"\0\x0a", b"\0\1", b"\0\7"):
        junk_datagrams = [start + rng.randbytes(rng.randrange(0, 1400)) for _ in range(200)]
        send(service.udp[0], junk_datagrams, "127.0.0.9", pause_seconds=0)
        time.sleep(0.05)
    time.sleep(1.5)
    junk = int(service.query("SELECT count() AS n FROM flows WHERE protocol = 'netflow5'")[0]["n"]) - before
    send(service.udp[0], payloads("softflowd_v5"), "127.0.0.72")

    sql = "SELECT count() AS n FROM flows WHERE protocol = 'netflow5'"
    assert service.wait_for_rows(sql, before + junk + 687) == before + junk + 687
    assert 'vmflow_decode_problems_total{exporter="127.0.0.9"' in service.get("/metrics")
    assert 'reason="internal"' not in service.get("/metrics")
    health = json.loads(service.get("/health"))
    assert (health["status"], health["store"], health["spool"], health["spool_bytes"]) == ("ok", "ok", "ok", 0)


def test_a_second_service_says_what_is_in_the_way(service: Service, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "collector", "run", "--set", f'listen.addresses=["{service.udp[0]}"]',
        "--set", f"store.url=chdb://{tmp_path}/store", "--set", "sql.port=0", "--set", "web.port=0",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 2
    assert service.udp[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_over_ipv6_the_same_rows_and_sigterm_loses_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as started:
        for file in CAPTURES:
            replay(started.udp[1], file)
        assert started.stop(signal.SIGTERM) == 0
    with running(tmp_path) as again:
        assert stored(again) == expected()
        assert again.stop(signal.SIGINT) == 0


def test_a_clickhouse_server_holds_the_same_rows(tmp_path: Path, clickhouse_url: str) -> None:
    """The writer over a real socket, to our own endpoint in another process, which stands in for a server."""
    with running(tmp_path, "store.database=whole_way", store=clickhouse_url) as started:
        assert started.ready["sql"] == "off"
        for file in CAPTURES:
            replay(started.udp[0], file)
        assert started.stop() == 0
    client = clickhouse_connect.get_client(dsn=clickhouse_url, database="whole_way")
    try:
        names = ", ".join(COLUMNS)
        lines = client.raw_query(f"SELECT {names}, flow_start, flow_end FROM flows", fmt="JSONEachRow").splitlines()
    finally:
        client.close()

    assert Counter(key(json.loads(line)) for line in lines) == expected()


def test_templates_survive_a_restart(tmp_path: Path) -> None:
    """Open vSwitch repeats templates every ten minutes only: data must be decoded at once after a restart."""
    captured = payloads("ovs_ipfix_nocache")
    captured = [p for p in captured if p[12:16] == captured[-1][12:16]]
    templates = [p for p in captured if p[16:18] == b"\0\2"]
    data = [p for p in captured if p[16:18] > b"\0\xff"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.bind(("127.0.0.1", 0))  # one port for both: a template belongs to its stream

        def send_to(service: Service, datagrams: list[bytes]) -> None:
            host, port = service.udp[0].rsplit(":", 1)
            for datagram in datagrams:
                exporter.sendto(datagram, (host, int(port)))
                time.sleep(0.001)

        with running(tmp_path) as first:
            send_to(first, templates)
            time.sleep(0.5)
            assert first.stop() == 0
        with running(tmp_path) as second:
            send_to(second, data)
            assert second.wait_for_rows("SELECT count() AS n FROM flows", len(data)) == len(data)
