"""The whole service under garbage from many senders: it lives, stores the good exporter's rows, and caps its labels."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np

from tests.decoders.helpers import payloads, truth
from tests.service import running, send

LABELLED = 5
SENDERS = 40
GOOD = "127.66.0.1"


def test_garbage_costs_the_good_exporter_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    good = [payload for payload, *_ in payloads("ovs_netflow5")]
    expected = len(truth("ovs_netflow5", "records"))
    with running(tmp_path, f"pipeline.exporter_labels={LABELLED}") as service:
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
