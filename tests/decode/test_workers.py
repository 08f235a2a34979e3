"""Several decode workers do what one does: every sender's datagrams meet their templates, in order, and count once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from collector.decode.exporter_stats import OwnLoss
from collector.decode.settings import DecodeSettings, ExporterSettings
from collector.decode.stage import DecodeStage
from collector.decode.workers import count_of, stages, worker_of
from collector.metrics import Metrics
from collector.threads import Bridge
from decoders.datagrams import Datagrams
from decoders.shared import Decoded
from tests.decoders.support import payloads

CAPTURES = ("softflowd_v5", "softflowd_v9", "softflowd_ipfix", "ovs_sflow_tcp_udp_s64")
SENDERS = [f"192.0.2.{number}" for number in range(1, 14)]
NOW_US = 1_790_000_000_000_000


class Nameless:
    """An enricher that knows nobody."""

    def warm_up(self) -> None:
        pass

    async def first_answers(self) -> None:
        pass

    def name(self, decoded: Decoded, _worker: int, /) -> Decoded:
        return decoded


class Rows:
    """A sink that keeps what it is offered."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, pa.RecordBatch]] = []

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        self.batches.append((table, batch))
        return True

    async def ready(self) -> None:
        pass

    def rows(self, table: str) -> Counter[str]:
        """Each row as text, with how often it came."""
        return Counter(repr(row) for name, batch in self.batches if name == table for row in batch.to_pylist())


def traffic(capture: str, senders: Sequence[str], part: slice = slice(None)) -> Datagrams:
    """What one exporter sent, from each of several addresses, mixed."""
    sent = list(payloads(capture))[part]
    return Datagrams.of((payload, sender, port, when) for payload, _, port, when in sent for sender in senders)


def run(workers: int, batches: Sequence[Datagrams | DecodeSettings], state: Path | None = None) -> tuple[Rows, Metrics]:
    """Decode one batch after the other; settings among them are taken over in between."""
    sink, metrics = Rows(), Metrics()

    async def scenario() -> None:
        async with Bridge(dict.fromkeys(stages(workers), 1)) as bridge:
            pipeline = DecodeStage(
                DecodeSettings(decode_workers=workers, gather_milliseconds=0), metrics, bridge, sink, Nameless(),
                clock_us=lambda: NOW_US, own_loss=lambda: OwnLoss(3, 5), state_file=state,
            )  # fmt: skip
            async with pipeline:
                await pipeline.ready.wait()
                for batch in batches:
                    if isinstance(batch, DecodeSettings):
                        pipeline.reload(batch)
                    else:
                        assert pipeline.offer(batch)
                    while len(pipeline.inbox):  # noqa: ASYNC110 - the inbox has no event for being empty
                        await asyncio.sleep(0.01)

    asyncio.run(scenario())
    return sink, metrics


def totals(metrics: Metrics) -> dict[str, float]:
    """Running totals of all exporters and of the tables; gaps are looked for by a clock that runs on."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if family.name.startswith(("vmflow_exporter_", "vmflow_decode", "vmflow_templates"))
        and "seconds" not in sample.name
        and sample.labels.get("table") != "gaps"
        and not sample.name.endswith("_created")
    }


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_many_workers_give_what_one_gives(workers: int) -> None:
    batches = [traffic(capture, SENDERS, part) for part in (slice(0, 9), slice(9, 60)) for capture in CAPTURES]

    one, one_metrics = run(1, batches)
    many, many_metrics = run(workers, batches)

    for table in ("flows", "interface_counters", "exporters"):
        assert one.rows(table), table
        assert many.rows(table) == one.rows(table), table
    assert totals(many_metrics) == totals(one_metrics)
    assert sum(row["kernel_drops"] for name, batch in many.batches if name == "exporters" for row in batch.to_pylist())


def test_templates_are_known_to_another_number_of_workers(tmp_path: Path) -> None:
    state = tmp_path / "templates.json"
    everything = traffic("softflowd_ipfix", SENDERS)
    expected = run(1, [everything])[0].rows("flows")

    reported = run(3, [everything], state)[0].rows("flows")
    again = run(2, [everything], state)[0].rows("flows")
    alone = run(1, [everything], state)[0].rows("flows")

    assert reported == expected
    assert again == alone
    assert sum(again.values()) >= sum(expected.values())


def test_data_is_decoded_with_templates_of_before_the_restart(tmp_path: Path) -> None:
    """Only the first datagram brings templates: what comes after it is decoded by those that the file holds."""
    state = tmp_path / "templates.json"
    run(3, [traffic("softflowd_ipfix", SENDERS, slice(0, 1))], state)

    rest = traffic("softflowd_ipfix", SENDERS, slice(1, 3))
    without = run(4, [rest])[0].rows("flows")
    known = run(4, [rest], state)[0].rows("flows")

    assert sum(known.values()) > sum(without.values())
    assert {sender for sender in SENDERS if any(_mapped(sender) in row for row in known)} == set(SENDERS)


def _mapped(sender: str) -> str:
    octets = bytes(10) + b"\xff\xff" + bytes(map(int, sender.split(".")))
    return repr(octets)


def test_new_rules_hold_from_the_next_batch_on_all_workers() -> None:
    sampled = DecodeSettings(
        exporters=(ExporterSettings.model_validate({"network": "192.0.2.0/24", "sampling_rate": 77}),)
    )
    batch = traffic("softflowd_v5", SENDERS, slice(0, 1))

    sink, _ = run(3, [batch, sampled, traffic("softflowd_v5", SENDERS, slice(1, 2))])

    rates = {
        (row["time_received"], row["exporter"], row["sampling_rate"])
        for name, rows in sink.batches
        if name == "flows"
        for row in rows.to_pylist()
    }
    assert Counter(rate for _, _, rate in rates) == {1: len(SENDERS), 77: len(SENDERS)}


def test_a_sender_has_one_worker_and_senders_are_spread() -> None:
    addresses = np.array([[0, 0xFFFF_0A00_0000 + number] for number in range(4_000)], np.uint64)

    workers = worker_of(addresses, 4)

    assert np.array_equal(workers, worker_of(addresses.copy(), 4))
    assert Counter(workers.tolist()).keys() == {0, 1, 2, 3}
    assert min(Counter(workers.tolist()).values()) > 800


def test_workers_are_counted_by_the_setting_or_by_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (2, 1), (4, 1), (8, 2), (256, 16)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert count_of(0) == expected
    assert count_of(5) == 5
