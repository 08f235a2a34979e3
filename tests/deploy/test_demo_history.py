"""The past of the made-up cloud: `flows`, rollups and views say the same, at its own time."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from collector.store.client import open_in_database
from collector.store.settings import StoreSettings
from deploy.demo.history import HOUR, flows, main, traffic, write
from deploy.demo.model import TENANTS, Cloud
from tests.flow_rows import ask

SEED = 1
BEGIN = int(time.time()) // HOUR * HOUR - 5 * HOUR


def cloud() -> Cloud:
    """Small: hv1 and hv2 send sFlow, hv3 IPFIX, hv4 NetFlow v5."""
    return Cloud(SEED, 4, 30, 0.2, 64)


def test_rows_rollups_and_views_agree_with_what_was_sent(embedded_store: StoreSettings) -> None:
    made, hours = cloud(), (BEGIN, BEGIN + HOUR)
    with open_in_database(embedded_store) as client:
        counts = list(write(client, made, SEED, hours))
        assert list(write(client, made, SEED, hours)) == counts, "again: nothing is added"

        begin, end = (f"fromUnixTimestamp({at})" for at in (BEGIN, BEGIN + 2 * HOUR))
        inside = f"min(flow_start) >= {begin} AND max(flow_end) <= {end}"
        stored = ask(client, f"SELECT count() AS n, {inside} AS inside FROM flows")
        assert stored == [{"n": sum(counts), "inside": 1}]
        keys = "src_vm, dst_vm, network, toString(sighting) AS sighting, toString(protocol) AS protocol"
        rows = ask(client, f"SELECT {keys}, sum(packets_estimated) AS packets FROM flows GROUP BY ALL ORDER BY ALL")
        for level in ("10s", "1m", "1h"):
            sums = ask(client, f"SELECT {keys}, sum(packets) AS packets FROM pair_{level} GROUP BY ALL ORDER BY ALL")
            assert [row | {"packets": round(row["packets"])} for row in sums] == rows, level

        true: Counter[tuple[str, str, str]] = Counter()
        for start in hours:
            seen = traffic(made, start, SEED)
            for src, dst, packets in zip(seen.src.tolist(), seen.dst.tolist(), seen.packets.tolist(), strict=True):
                one, other = made.vms[src], made.vms[dst]
                if made.hosts[one.host].protocol != "sflow":
                    true[one.name, other.name, f"{TENANTS[one.tenant]}-net"] += packets
        view = ask(client, "SELECT src_vm, dst_vm, network, sum(packets) AS packets, "
                   "maxIf(loss_ratio, loss_evidence = 'exact') AS loss "
                   "FROM pair_metrics_1h WHERE sampling_rate = 1 AND counted_at = 'source' GROUP BY ALL")  # fmt: skip
        assert {(row["src_vm"], row["dst_vm"], row["network"]): round(row["packets"]) for row in view} == true
        assert all(row["loss"] is None or row["loss"] < 1e-9 for row in view)
        assert len(true) > 10


def test_a_day_has_its_rhythm() -> None:
    """Five times as much at 15:00 as at 3:00, but for backups, and a little chance."""
    made = cloud()
    day = BEGIN // 86_400 * 86_400
    night, noon = (traffic(made, day + hour * HOUR, SEED) for hour in (3, 15))

    def requests(seen: object) -> int:
        return int(np.sum(seen.packets[seen.dst_port == 53]))  # type: ignore[attr-defined]

    assert requests(noon) / requests(night) == pytest.approx(5, rel=0.2)


def test_the_same_hour_is_the_same_rows() -> None:
    assert flows(cloud(), BEGIN, SEED).equals(flows(cloud(), BEGIN, SEED))
    assert not flows(cloud(), BEGIN, SEED).equals(flows(cloud(), BEGIN, SEED + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--days", "0"], "expected --days 1 to 60, found 0"),
        (["--vms", "3"], "expected at least 1 hypervisor and 30 VMs"),
        (["--end", "tomorrow"], "Invalid isoformat string: 'tomorrow'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "demo.toml"
    file.write_text("")
    assert main(["--config", str(file), *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"history: {message}")
