"""The inbox between sockets and decoders, who may export, and what is reported of exporter streams."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from collector.decode.exporter_stats import Growths, OwnLoss, StreamMetrics, StreamReporter
from collector.decode.inbox import ROW_BYTES, Inbox
from collector.decode.settings import DecodeSettings, ExporterSettings
from collector.decode.stage import INBOX_CHECK_SECONDS, DecodeStage, rules_of
from collector.decode.workers import stages
from collector.metrics import Metrics
from collector.threads import Bridge
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.limits import Limits
from decoders.sessions import S_DATAGRAMS, S_LOST, forget
from decoders.shared import Decoded, assign_batch, new_shared
from tests.decoders.netflow.support import BASE, base, in_set, ipfix, record5, template, v5
from tests.decoders.sflow.support import datagram, flow_sample, header
from tests.decoders.support import payloads, truth

NETFLOW5 = b"\x00\x05" + bytes(40)


def batch(*payloads: bytes, address: str = "192.0.2.1", port: int = 9) -> Datagrams:
    return Datagrams.of((payload, address, port, 5) for payload in payloads)


def bytes_of(batch: Datagrams) -> int:
    """What a batch counts for in an inbox."""
    return int(batch.length.sum()) + ROW_BYTES * len(batch)


def one_by_one(read: Datagrams) -> list[Datagrams]:
    """Each datagram as a batch of its own, all in one piece of memory, as small reads bring them."""
    columns = (read.start, read.length, read.address, read.port, read.time_received_us, read.connection)
    return [Datagrams(read.octets, *(column[n : n + 1] for column in columns)) for n in range(len(read))]


def contents(datagrams: Datagrams) -> list[bytes]:
    spans = zip(datagrams.start, datagrams.length, strict=True)
    return [datagrams.octets[start : start + length].tobytes() for start, length in spans]


def taken(batches: list[Datagrams], limit: int) -> list[list[bytes]]:
    """What an inbox gives, `limit` octets at most at a time."""

    async def scenario() -> list[list[bytes]]:
        inbox = Inbox(1 << 20)
        for one in batches:
            assert inbox.offer(one) == 0
        inbox.close()
        found = []
        while (item := await inbox.take(limit)) is not None:
            found.append(contents(item))
        return found

    return asyncio.run(scenario())


def test_batches_of_one_piece_of_memory_come_out_in_order_and_joined_up_to_the_limit() -> None:
    parts = one_by_one(batch(b"one", b"two", b"three", b"four", b"five"))

    assert taken(parts, 2 * bytes_of(parts[2])) == [[b"one", b"two"], [b"three", b"four"], [b"five"]]


def test_little_is_copied_to_get_into_one_batch_much_is_not() -> None:
    little = batch(b"little")
    much = batch(b"much" * 300)

    assert taken([little, batch(b"more"), much], 1 << 14) == [[b"little", b"more", b"much" * 300]]
    assert taken([much, little, batch(b"more")], 1 << 14) == [[b"much" * 300], [b"little", b"more"]]


async def others() -> None:
    """Let every other task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_few_datagrams_wait_for_more() -> None:
    """The wait of an hour ends once half of a batch is there."""
    limit = 6 * bytes_of(batch(b"one"))
    one, two, end = one_by_one(batch(b"one", b"two", b"end"))

    async def scenario() -> Datagrams | None:
        inbox = Inbox(1 << 20)
        assert inbox.offer(one) == 0
        taking = asyncio.create_task(inbox.take(limit, 3600))
        await others()
        assert inbox.offer(two) == 0
        await others()
        assert not taking.done()
        assert inbox.offer(end) == 0
        return await asyncio.wait_for(taking, 20)

    assert contents(asyncio.run(scenario()) or batch()) == [b"one", b"two", b"end"]


def test_a_stop_ends_the_wait_for_more() -> None:
    async def scenario() -> list[Datagrams | None]:
        inbox = Inbox(1 << 20)
        assert inbox.offer(batch(b"last")) == 0
        taking = asyncio.create_task(inbox.take(1 << 20, 3600))
        await others()
        inbox.close()
        return [await asyncio.wait_for(taking, 20), await inbox.take(1 << 20, 3600)]

    last, end = asyncio.run(scenario())
    assert contents(last or batch()) == [b"last"]
    assert end is None


def test_few_datagrams_wait_no_longer_than_is_set() -> None:
    async def scenario() -> Datagrams | None:
        inbox = Inbox(1 << 20)
        assert inbox.offer(batch(b"alone")) == 0
        return await inbox.take(1 << 20, 0.01)

    assert contents(asyncio.run(scenario()) or batch()) == [b"alone"]


def test_a_full_inbox_drops_the_newest_and_counts() -> None:
    async def scenario() -> Inbox:
        inbox = Inbox(bytes_of(batch(b"x" * 100)))
        assert inbox.offer(batch(b"x" * 100)) == 0
        assert inbox.offer(batch(b"y", b"zz")) == 2
        assert (await inbox.take(1) or batch()).octets.tobytes() == b"x" * 100
        assert inbox.offer(batch(b"again")) == 0
        return inbox

    inbox = asyncio.run(scenario())
    assert inbox.dropped_datagrams == 2
    assert inbox.octets == bytes_of(batch(b"again"))


def test_the_end_of_a_connection_finds_room_in_a_full_inbox() -> None:
    async def scenario() -> list[int]:
        inbox = Inbox(bytes_of(batch(b"x" * 100)))
        end = replace(batch(b""), connection=np.array([7]))
        assert inbox.offer(batch(b"x" * 100)) == 0
        assert inbox.offer(batch(b"")) == 1
        assert inbox.offer(end) == 0
        assert inbox.octets == bytes_of(batch(b"x" * 100)) + bytes_of(end)
        taken = await inbox.take(1 << 20)
        inbox.close()
        assert inbox.offer(end) == 1
        return [] if taken is None else taken.connection.tolist()

    assert asyncio.run(scenario()) == [0, 7]


def test_take_waits_for_an_offer() -> None:
    async def scenario() -> list[bytes]:
        inbox = Inbox(1 << 20)
        taking = asyncio.create_task(inbox.take(100))
        await asyncio.sleep(0)
        inbox.offer(batch(b"late"))
        taken = await taking
        assert taken is not None
        return contents(taken)

    assert asyncio.run(scenario()) == [b"late"]


@pytest.mark.parametrize(
    ("address", "allowed", "rate"),
    [("192.0.2.11", True, 64), ("192.0.2.12", True, 0), ("198.51.100.1", False, 0), ("2001:db8::5", True, 0)],
)
def test_rules_say_who_may_export_and_at_which_rate(address: str, allowed: bool, rate: int) -> None:
    from ipaddress import IPv6Address

    from decoders.datagrams import address_halves

    settings = DecodeSettings.model_validate(
        {
            "allow": ["192.0.2.0/24", "2001:db8::/32"],
            "exporters": [{"network": "192.0.2.11", "sampling_rate": 64}, {"network": "198.51.100.0/24"}],
        }
    )
    high, low = address_halves(address)
    rule = next(rule for rule in rules_of(settings) if IPv6Address(high << 64 | low) in rule.network)

    assert (rule.allowed, rule.sampling_rate) == (allowed, rate)


def test_without_a_list_everybody_may_export() -> None:
    assert rules_of(DecodeSettings()) == ()
    assert rules_of(DecodeSettings(exporters=(ExporterSettings.model_validate({"network": "::1"}),)))[0].allowed


def test_a_report_holds_the_growth_of_each_stream_and_our_own_losses() -> None:
    shared = new_shared(Limits(sessions=8))
    reporter = StreamReporter(shared.sessions)
    assert reporter.report(1_000_000, OwnLoss(1, 1)) is None
    assign_batch(shared, batch(NETFLOW5, NETFLOW5, b""))
    first = reporter.report(11_000_000, OwnLoss(3, 5))
    assign_batch(shared, batch(NETFLOW5))
    second = reporter.report(21_000_000, OwnLoss(3, 5))
    assert first is not None
    assert second is not None

    shown = [(row["protocol"], row["datagrams"], row["bytes"], row["problems"]) for row in first.to_pylist()]
    assert shown == [("netflow5", 2, 84, []), ("unknown", 1, 0, [("empty", 1)]), ("unknown", 0, 0, [])]
    assert first.column("exporter")[0].as_py().hex() == "00000000000000000000ffffc0000201"
    assert [(row["kernel_drops"], row["queue_drops"]) for row in first.to_pylist()] == [(0, 0), (0, 0), (2, 4)]
    assert [row["datagrams"] for row in second.to_pylist()] == [1, 0]
    assert second.column("interval_us")[0].as_py() == 10_000_000


def test_a_number_that_changed_its_stream_begins_anew() -> None:
    shared = new_shared(Limits(sessions=1))
    growths = Growths(shared.sessions)
    assign_batch(shared, batch(NETFLOW5, NETFLOW5, NETFLOW5))
    assert growths.take().stats[0, 0] == 3
    forget(shared.sessions, np.array([1]))
    assign_batch(shared, batch(NETFLOW5, address="192.0.2.2"))

    growth = growths.take()
    assert growth.numbers.tolist() == [1]
    assert growth.stats[0, 0] == 1


SENDERS = 3_000
LOST = 17


def short_visit(host: int) -> list[tuple[bytes, str, int, int]]:
    """Two datagrams of one record each, between which `LOST` records are missing, and one of no known version."""
    address = f"10.1.{host >> 8}.{host & 255}"
    datagrams = (v5(record5(), sequence=1), v5(record5(), sequence=2 + LOST), b"\0\x63" + bytes(20))
    return [(datagram, address, 9, 1_000_000 * host) for datagram in datagrams]


def sums(batches: list[pa.RecordBatch | None]) -> dict[str, int]:
    """What all rows tell together."""
    reported = pa.Table.from_batches([one for one in batches if one is not None]).to_pylist()
    total = {name: sum(row[name] for row in reported) for name in ("datagrams", "bytes", "records", "export_lost")}
    return total | {"version": sum(dict(row["problems"]).get("version", 0) for row in reported)}


@pytest.mark.parametrize("every", [1, 7, 10_000], ids=["often", "now and then", "at the end"])
def test_streams_that_are_forgotten_between_two_reports_are_reported(every: int) -> None:
    """Each sender is pushed out by those after it; rows and metrics add up to what was sent all the same."""
    decoder = Decoder(Limits(sessions=64))
    metrics = Metrics(exporters_labelled=4)
    reporter, streams = StreamReporter(decoder.shared.sessions), StreamMetrics([decoder.shared.sessions], metrics)
    reported = [reporter.report(1, OwnLoss())]
    for number, first in enumerate(range(0, SENDERS, 5)):
        decoder.decode(Datagrams.of(row for host in range(first, first + 5) for row in short_visit(host)))
        if number % every == 0:
            reported.append(reporter.report(2 + number, OwnLoss()))
            streams.advance()
    reported.append(reporter.report(10_000, OwnLoss()))
    streams.advance()

    sent = {
        "datagrams": 3 * SENDERS,
        "bytes": (2 * (24 + 48) + 22) * SENDERS,
        "records": 2 * SENDERS,
        "export_lost": LOST * SENDERS,
        "version": SENDERS,
    }
    assert sums(reported) == sent
    assert max(batch.num_rows for batch in reported if batch is not None) <= 64 + 2
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    counted = {
        name: sum(one.value for one in samples if one.name == f"vmflow_exporter_{name}_total")
        for name in ("datagrams", "bytes", "records", "export_lost")
    }
    assert counted | {"version": sent["version"]} == sent
    refused = [one for one in samples if one.name == "vmflow_decode_problems_total"]
    assert sum(one.value for one in refused if one.labels["reason"] == "version") == SENDERS


def test_a_stream_that_is_forgotten_and_comes_back_is_reported_once() -> None:
    shared = new_shared(Limits(sessions=1))
    growths = Growths(shared.sessions)
    assign_batch(shared, batch(*[NETFLOW5] * 3))
    assert growths.take().stats[0, S_DATAGRAMS] == 3
    assign_batch(shared, batch(*[NETFLOW5] * 2))
    forget(shared.sessions, np.array([1]))
    assign_batch(shared, batch(*[NETFLOW5] * 4))

    growth = growths.take()
    assert dict(zip(growth.numbers.tolist(), growth.stats[:, S_DATAGRAMS].tolist(), strict=True)) == {1: 4, 0: 2}
    assert growths.take().numbers.tolist() == []


def test_loss_that_a_late_datagram_takes_back_is_not_reported_twice() -> None:
    shared = new_shared(Limits(sessions=2))
    growths = Growths(shared.sessions)
    assign_batch(shared, batch(NETFLOW5))
    reported = []
    for lost in (5, 3, 5, 6):
        shared.sessions.stats[1, S_LOST] = lost
        reported.append(int(growths.take().stats[:, S_LOST].sum()))

    assert reported == [5, 0, 0, 1]


def test_records_of_a_domain_that_only_comes_behind_another_are_reported() -> None:
    decoder = Decoder(Limits(sessions=8))
    reporter = StreamReporter(decoder.shared.sessions)
    reporter.report(1, OwnLoss())
    messages = ipfix(template(256, BASE), in_set(256, base()), domain=1)
    messages += ipfix(template(256, BASE), in_set(256, base(), base()), domain=2)
    decoder.decode(batch(messages))
    reported = reporter.report(2, OwnLoss())

    assert reported is not None
    assert [(row["domain"], row["datagrams"], row["records"]) for row in reported.to_pylist()] == [
        (1, 1, 1),
        (2, 0, 2),
        (0, 0, 0),
    ]


def test_a_connection_is_reported_by_address_and_port() -> None:
    decoder = Decoder(Limits(sessions=8))
    reporter = StreamReporter(decoder.shared.sessions)
    reporter.report(1, OwnLoss())
    decoder.decode(replace(batch(ipfix(template(256, BASE)), port=4_000), connection=np.array([7])))
    reported = reporter.report(2, OwnLoss())

    assert reported is not None
    first = reported.to_pylist()[0]
    assert (first["exporter"][-4:], first["agent"], first["source_port"], first["protocol"], first["templates"]) == (
        bytes([192, 0, 2, 1]),
        bytes(16),
        4_000,
        "ipfix",
        1,
    )


def test_stream_metrics_are_capped_and_add_up() -> None:
    """Half of the labels are for those who have stayed for a while; here are newcomers only."""
    shared = new_shared(Limits(sessions=8))
    metrics = Metrics(exporters_labelled=4)
    streams = StreamMetrics([shared.sessions], metrics)
    for host in range(1, 5):
        assign_batch(shared, batch(NETFLOW5, address=f"192.0.2.{host}"))
    streams.advance()
    assign_batch(shared, batch(NETFLOW5, b"", address="192.0.2.1"))
    streams.advance()

    def datagrams(exporter: str, protocol: str) -> float | None:
        return metrics.value("exporter_datagrams_total", exporter=exporter, protocol=protocol)

    assert datagrams("192.0.2.1", "netflow5") == 2
    assert datagrams("192.0.2.1", "unknown") == 1
    assert datagrams("192.0.2.2", "netflow5") == 1
    assert datagrams("192.0.2.3", "netflow5") is None
    assert datagrams("other", "netflow5") == 2
    assert metrics.value("decode_problems_total", exporter="192.0.2.1", reason="empty") == 1
    assert metrics.value("exporter_streams") == 5


class BrokenEnricher:
    """Names whose code has a defect."""

    def warm_up(self) -> None:
        pass

    async def first_answers(self) -> None:
        pass

    def name(self, decoded: Decoded, worker: int, /) -> Decoded:
        raise IndexError("a defect")


class Rows:
    """A sink that keeps what it is offered."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, pa.RecordBatch]] = []

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        self.batches.append((table, batch))
        return True

    async def ready(self) -> None:
        pass


def test_a_defect_in_naming_costs_names_and_no_rows() -> None:
    metrics, sink = Metrics(), Rows()

    async def scenario() -> None:
        async with Bridge(dict.fromkeys(stages(1), 1)) as bridge:
            pipeline = DecodeStage(
                DecodeSettings(decode_workers=1), metrics, bridge, sink, BrokenEnricher(),
                clock_us=lambda: 1_000_000, own_loss=OwnLoss, state_file=None,
            )  # fmt: skip
            async with pipeline:
                await pipeline.ready.wait()
                pipeline.offer(Datagrams.of(payloads("softflowd_v5")))

    asyncio.run(scenario())

    flows = [batch for table, batch in sink.batches if table == "flows"]
    expected = len(truth("softflowd_v5", "records"))
    assert sum(batch.num_rows for batch in flows) == expected == metrics.value("unnamed_rows_total")
    assert all("src_vm" not in batch.schema.names for batch in flows)


def test_data_sources_that_have_to_go_for_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, sink = Metrics(), Rows()
    monkeypatch.setattr("collector.decode.stage.Limits", partial(Limits, sources=8))

    async def scenario() -> None:
        async with Bridge(dict.fromkeys(stages(1), 1)) as bridge:
            pipeline = DecodeStage(
                DecodeSettings(decode_workers=1), metrics, bridge, sink, BrokenEnricher(),
                clock_us=lambda: 1_000_000, own_loss=OwnLoss, state_file=None,
            )  # fmt: skip
            async with pipeline:
                await pipeline.ready.wait()
                pipeline.offer(batch(datagram(*(flow_sample(header(bytes(64)), source=(0, n)) for n in range(200)))))

    asyncio.run(scenario())

    assert metrics.value("sflow_sources_forgotten_total") == 200 - 16  # slots of the table


class LateEnricher(BrokenEnricher):
    """Names whose sources never answer."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def first_answers(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    def name(self, decoded: Decoded, worker: int, /) -> Decoded:
        return decoded


class Gate(Rows):
    """A sink that takes nothing more until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def ready(self) -> None:
        self.reached.set()
        await self.opened.wait()


def test_the_oldest_datagram_is_known_until_its_rows_are_handed_on() -> None:
    """Windows stay open as long: else those of a first start, whose kernels are slow, close without their rows."""

    datagrams = Datagrams.of(payloads("softflowd_v5"))

    async def scenario() -> list[int]:
        sink, seen = Gate(), []
        async with Bridge(dict.fromkeys(stages(1), 1)) as bridge:
            pipeline = DecodeStage(
                DecodeSettings(decode_workers=1), Metrics(), bridge, sink, BrokenEnricher(),
                clock_us=lambda: 1_000_000, own_loss=OwnLoss, state_file=None,
            )  # fmt: skip
            async with pipeline:
                await pipeline.ready.wait()
                seen.append(pipeline.oldest_us)
                pipeline.offer(datagrams)
                seen.append(pipeline.oldest_us)
                await sink.reached.wait()
                assert not len(pipeline.inbox)
                seen.append(pipeline.oldest_us)
                sink.opened.set()
                while pipeline.oldest_us:  # noqa: ASYNC110 - nothing sets an event when it ends
                    await asyncio.sleep(0)
        return seen

    first = int(datagrams.time_received_us[0])
    assert asyncio.run(scenario()) == [0, first, first]


def test_names_are_waited_for_only_while_there_is_room() -> None:
    sink = Rows()
    datagrams = Datagrams.of(payloads("softflowd_v5"))
    size = bytes_of(datagrams)

    async def scenario() -> bool:
        enricher = LateEnricher()
        async with Bridge(dict.fromkeys(stages(1), 1)) as bridge:
            settings = DecodeSettings(inbox_bytes=max(2**20, 3 * size), decode_workers=1)
            pipeline = DecodeStage(
                settings, Metrics(), bridge, sink, enricher,
                clock_us=lambda: 1_000_000, own_loss=OwnLoss, state_file=None,
            )  # fmt: skip
            async with pipeline:
                pipeline.offer(datagrams)
                await enricher.asked.wait()
                await asyncio.sleep(3 * INBOX_CHECK_SECONDS)
                waited = not pipeline.ready.is_set()
                while pipeline.inbox.octets < pipeline.inbox.limit_bytes // 2:
                    assert pipeline.offer(datagrams)
                await pipeline.ready.wait()
            return waited

    assert asyncio.run(scenario())
    assert sink.batches
