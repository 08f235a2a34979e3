"""Any octets as NetFlow or IPFIX: no exception, bounded rows, sane values; compiled and uncompiled kernels agree."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decoders.datagrams import Datagrams
from decoders.errors import Reason
from tests.decoders.netflow.support import BASE, Collector, base, in_set, ipfix, record5, template, v5, v9
from tests.decoders.support import payloads, rows

STEMS = [
    "softflowd_v5",
    "ovs_netflow5",
    "softflowd_v9",
    "pmacct_nfprobe_v9",
    "softflowd_ipfix",
    "pmacct_ipfix",
    "ovs_ipfix_tunnel",
]
ROOT = Path(__file__).parents[3]


def mutants(stem: str) -> st.SearchStrategy[list[bytes]]:
    """Datagrams of a capture in order, some with words overwritten, octets flipped, pieces cut, doubled or joined."""
    originals = [payload for payload, _, _, _ in payloads(stem)[:30]]

    @st.composite
    def mutate(draw: st.DrawFn) -> list[bytes]:
        found = list(originals[: draw(st.integers(1, len(originals)))])
        for _ in range(draw(st.integers(1, 6))):
            index = draw(st.integers(0, len(found) - 1))
            payload = bytearray(found[index])
            at = draw(st.integers(0, max(len(payload) // 2 - 1, 0))) * 2
            match draw(st.integers(0, 4)):
                case 0:
                    payload[at : at + 2] = draw(st.sampled_from([0, 1, 2, 3, 4, 255, 256, 65_535])).to_bytes(2, "big")
                case 1:
                    payload[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
                case 2:
                    del payload[draw(st.integers(0, len(payload))) :]
                case 3:
                    payload[at:at] = payload[at : at + draw(st.integers(1, 100))]
                case _:
                    payload[at:] = draw(st.sampled_from(originals))[at:]
            if payload[:2] == b"\0\x0a" and draw(st.booleans()):
                payload[2:4] = len(payload).to_bytes(2, "big")
            found[index] = bytes(payload)
        return found

    return mutate()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.one_of([mutants(stem) for stem in STEMS]))
def test_mutated_captures_never_raise_and_give_sane_rows(datagrams: list[bytes]) -> None:
    collector = Collector()
    found = collector.decode(*datagrams)

    assert Reason.INTERNAL not in collector.problems
    assert len(found) <= 2 * sum(len(datagram) for datagram in datagrams)
    for row in found:
        assert row["sampling_rate"] >= 1
        assert 0 <= row["flow_start"] <= row["flow_end"]
        assert row["protocol"].startswith(("netflow", "ipfix"))
        if row["protocol"] in ("netflow9", "ipfix"):
            assert row["src_mac"] or row["dst_mac"] or any(row["src_ip"]) or any(row["dst_ip"])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([1, 5, 7, 9, 10]), st.binary(max_size=300))
def test_any_bytes_behind_a_version_never_raise(version: int, octets: bytes) -> None:
    collector = Collector()
    payload = struct.pack("!H", version) + octets
    whole = struct.pack("!HH", version, len(payload)) + payload[4:]
    collector.decode(payload, whole)

    assert Reason.INTERNAL not in collector.problems


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 20) | st.just(65_535)), min_size=1, max_size=40),
    st.binary(max_size=400),
    st.sampled_from([9, 10]),
)
def test_any_template_and_any_data_never_raise(fields: list[tuple[int, int]], data: bytes, version: int) -> None:
    collector = Collector()
    sets = (template(256, list(fields), version=version), in_set(256, data))
    collector.decode(ipfix(*sets) if version == 10 else v9(*sets))

    assert Reason.INTERNAL not in collector.problems


@pytest.mark.parametrize("stem", STEMS)
def test_neighbours_of_broken_datagrams_survive(stem: str) -> None:
    """Every datagram comes twice: cut short from another exporter, then whole."""
    whole = list(payloads(stem))
    mixed = []
    for payload, sender, port, time_us in whole:
        mixed.append((payload[: len(payload) * 2 // 3], "198.51.100.7", port, time_us))
        mixed.append((payload, sender, port, time_us))
    collector = Collector()
    found = rows(collector.decoder.decode(Datagrams.of(mixed)).flows)
    alone = rows(Collector().decoder.decode(Datagrams.of(whole)).flows)

    assert [row for row in found if row["exporter"][-1] != 7] == alone


def test_ever_different_datagrams_of_forged_senders_do_not_grow_the_state() -> None:
    collector = Collector()
    for port in range(1, 400):
        collector.time_us += 1
        collector.decode(ipfix(template(256 + port, BASE), in_set(3000, bytes(200))), port=port)
        collector.decode(v9(in_set(256, base())), v5(record5()), port=port)

    sessions = collector.decoder.shared.sessions
    assert sessions.count[0] <= 65
    assert len(collector.decoder.sets.templates) <= 64


def fingerprint() -> str:
    """What a fixed set of mutants decodes to, as one string; run compiled and uncompiled."""
    random = np.random.default_rng(7)
    found = []
    for stem in STEMS:
        collector = Collector()
        for payload, *_ in payloads(stem)[:20]:
            octets = bytearray(payload)
            if random.integers(0, 3) == 0:
                for at in random.integers(0, len(octets), random.integers(1, 4)):
                    octets[at] = random.integers(0, 256)
            found.append(collector.decode(bytes(octets)))
        stats = collector.decoder.shared.sessions.stats
        found.append([stats[:8].tolist(), {reason.name: n for reason, n in collector.problems.items()}])
    return json.dumps(found, default=repr)


def test_uncompiled_kernels_give_the_same_rows_as_compiled_ones() -> None:
    code = "from tests.decoders.netflow.test_hostile import fingerprint; print(fingerprint())"
    command = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-2_000:]
    assert run.stdout.strip() == fingerprint()
