"""The whole service under garbage from many senders: it lives, stores the good exporter's rows, and caps its labels."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import numpy as np

from tests.decoders.netflow.support import BASE, base, in_set, ipfix, record5, template, v5
from tests.decoders.support import payloads, truth
from tests.service import running, send

LABELLED = 5
SENDERS = 40
GOOD = "127.66.0.1"


def test_garbage_costs_the_good_exporter_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    good = [payload for payload, *_ in payloads("ovs_netflow5")]
    expected = len(truth("ovs_netflow5", "records"))
    with running(tmp_path, f"decode.exporter_labels={LABELLED}") as service:
        host, port = service.udp[0].rsplit(":", 1)
        for number in range(SENDERS):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bad:
                bad.bind((f"127.66.1.{number + 1}", 0))
                for head in (b"\0\5", b"\0\x09", b"\0\x0a", b"\0\0\0\5", b"\0\x63", b""):
                    bad.sendto(head + random.bytes(600), (host, int(port)))
            send(service.udp[0], good[number::SENDERS], GOOD)
        rows = "SELECT count() AS n FROM flows WHERE exporter = toIPv6('::ffff:127.66.0.1')"
        assert service.wait_for_rows(rows, expected) == expected
        labels = {
            line.split('exporter="')[1].split('"')[0]
            for line in service.get("/metrics").splitlines()
            if 'exporter="' in line
        }
        assert len(labels) <= LABELLED + 1
        assert "other" in labels
        assert service.metric("vmflow_decode_problems_total") >= SENDERS
        assert service.stop() == 0


FORGED = 30_000
EXPORTER = "127.66.2.1"


def test_thirty_thousand_forged_senders_of_good_records_push_out_no_exporter(tmp_path: Path) -> None:
    """The exporter's template came before them; its data after them are decoded."""
    with running(tmp_path, "decode.exporter_labels=20") as service:
        rows = f"SELECT count() AS n FROM flows WHERE exporter = toIPv6('::ffff:{EXPORTER}')"
        host, port = service.udp[0].rsplit(":", 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
            exporter.bind((EXPORTER, 0))
            exporter.connect((host, int(port)))
            exporter.send(ipfix(template(256, BASE), in_set(256, base())))
            time.sleep(0.1)
            exporter.send(ipfix(in_set(256, base()), sequence=1))
            assert service.wait_for_rows(rows, 2) == 2
            for number in range(FORGED):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged:
                    forged.bind((f"127.{100 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}", 0))
                    forged.sendto(v5(record5()), (host, int(port)))
            others = f"SELECT count() AS n FROM flows WHERE exporter != toIPv6('::ffff:{EXPORTER}')"
            stored = service.wait_for_rows(others, FORGED, seconds=10)
            refused = service.metric("vmflow_decode_problems_total", reason="session_limit")
            assert stored + refused == FORGED
            exporter.send(ipfix(in_set(256, base()), sequence=2))
            assert service.wait_for_rows(rows, 3) == 3
        assert service.metric("vmflow_exporter_streams_forgotten_total", kind="exporter") >= stored - 16_384
        assert service.metric("vmflow_exporter_streams") <= 16_384
        assert any("name your exporters" in str(line.get("event")) for line in service.log)
        assert service.stop() == 0
