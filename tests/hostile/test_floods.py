"""Floods of templates and of forged senders: tables and labels stay within their limits, all is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from collector.decode.exporter_stats import TOTALS, StreamMetrics
from collector.metrics import Metrics
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.errors import REASONS, Reason
from decoders.limits import Limits
from tests.decoders.netflow.support import ipfix, record5, v5
from tests.hostile.messages import TIME_US, among, check_unharmed, good, many_templates, spoofed

ROOT = Path(__file__).parents[2]
SENDERS = 100_000
BATCHES = 50
LABELLED = 20
MEMORY_MIB = 600
"""What floods may add to the resident memory: full tables take about 150 MiB, see `Limits`."""


def forged(batch: int) -> list[tuple[bytes, str, int, int]]:
    """A part of the forged senders: each sends one template and a version that does not exist."""
    share = SENDERS // BATCHES
    numbers = range(batch * share, (batch + 1) * share)
    messages = [(ipfix(many_templates(256, 1)), spoofed(one), 1, TIME_US + batch) for one in numbers]
    return messages + [(b"\0\x63" + bytes(20), spoofed(one), 1, TIME_US + batch) for one in numbers]


def test_a_hundred_thousand_forged_senders_push_out_no_exporter_and_no_label() -> None:
    decoder = Decoder()
    sessions = decoder.shared.sessions
    metrics = Metrics(exporters_labelled=LABELLED)
    streams = StreamMetrics([sessions], metrics)
    kept = good()
    share = len(kept) // BATCHES + 1
    decoded = []
    for batch in range(BATCHES):
        part = kept[batch * share : (batch + 1) * share]
        decoded.append(decoder.decode(among(forged(batch), part) if part else Datagrams.of(forged(batch))))
        streams.advance()

    check_unharmed(decoded)
    limits = Limits()
    assert len(sessions.key) == limits.sessions + 1
    assert len(decoder.sets.templates) <= limits.templates
    assert sessions.problems[:, Reason.INTERNAL].sum() == 0

    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    counted = sum(one.value for one in samples if one.name == "vmflow_exporter_datagrams_total")
    refused = [one for one in samples if one.name == "vmflow_decode_problems_total"]
    assert counted == 2 * SENDERS + len(kept)
    assert sum(one.value for one in refused if one.labels["reason"] == "version") == SENDERS
    # Each counter has a sample and its time of creation; a label is an exporter's or `other`.
    assert len(samples) <= 2 * (LABELLED + 1) * (7 * len(TOTALS) + len(REASONS)) + 10
    assert len({one.labels["exporter"] for one in samples if "exporter" in one.labels}) <= LABELLED + 1


def test_a_hundred_thousand_templates_of_one_sender_stay_within_the_limits() -> None:
    decoder = Decoder()
    per_message, domains = 8_000, 13
    messages = [ipfix(many_templates(256, per_message), domain=domain) for domain in range(domains)]
    decoded = decoder.decode(among([(one, spoofed(1), 1, TIME_US) for one in messages], good()))

    check_unharmed([decoded])
    limits = Limits()
    # The good exporter has some of its own.
    assert domains * limits.templates_per_session <= len(decoder.sets.templates) <= limits.templates
    gave_way = domains * (per_message - limits.templates_per_session)
    assert int(decoder.shared.sessions.problems[:, Reason.TEMPLATE_LIMIT].sum()) == gave_way


def test_data_without_templates_is_held_within_the_limit() -> None:
    decoder = Decoder()
    data = (b"\1\0" + (1_000).to_bytes(2, "big") + bytes(996)) * 20
    bad = [(ipfix(data, domain=number), spoofed(number), 1, TIME_US) for number in range(2_000)]
    check_unharmed([decoder.decode(among(bad, good()))])

    from decoders.sessions import S_HELD_BYTES

    stats, problems = decoder.shared.sessions.stats, decoder.shared.sessions.problems
    assert int(stats[:, S_HELD_BYTES].sum()) <= Limits().held_bytes
    senders = (decoder.shared.sessions.key[:, 1] >> np.uint64(24) & np.uint64(0xFF)) == np.uint64(10)
    assert int(problems[senders][:, [Reason.HELD, Reason.NO_TEMPLATE]].sum()) >= 2_000 * 20


def flood() -> int:
    """All tables filled; returns what that added to the resident memory at its highest, in MiB."""
    from resource import RUSAGE_SELF, getrusage

    decoder = Decoder()
    decoder.warm_up()
    decoder.decode(Datagrams.of([(v5(record5()), spoofed(1), 1, TIME_US)]))
    before = getrusage(RUSAGE_SELF).ru_maxrss
    for batch in range(BATCHES):
        decoder.decode(Datagrams.of(forged(batch)))
    for domain in range(8):
        decoder.decode(Datagrams.of([(ipfix(many_templates(256, 8_000), domain=domain), spoofed(1), 1, TIME_US)]))
    return (getrusage(RUSAGE_SELF).ru_maxrss - before) // 1024


def test_floods_take_no_more_memory_than_the_tables() -> None:
    code = "from tests.hostile.test_floods import flood; print(flood())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-2_000:]
    assert int(run.stdout) <= MEMORY_MIB
