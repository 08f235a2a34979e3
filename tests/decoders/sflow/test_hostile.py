"""Any octets as an sFlow datagram: no exception, good neighbours survive, compiled and uncompiled kernels agree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decoders.datagrams import Datagrams
from decoders.errors import Reason
from tests.decoders.support import PCAPS, Sflow, mac, payloads, rows, truth

STEMS = ["ovs_sflow_exact_s1", "ovs_sflow_mixed", "ovs_sflow_vlan", "pmacct_sfprobe_s16"]
ROOT = Path(__file__).parents[3]


def test_a_datagram_cut_at_any_octet_keeps_the_samples_before_the_cut() -> None:
    payload, sender, port, time_us = max(payloads("ovs_sflow_mixed"), key=lambda datagram: len(datagram[0]))
    whole = rows(Sflow().decode_batch(Datagrams.of([(payload, sender, port, time_us)])).flows)
    assert len(whole) >= 4
    most = 0
    for cut in range(len(payload)):
        sflow = Sflow()
        found = rows(sflow.decode_batch(Datagrams.of([(payload[:cut], sender, port, time_us)])).flows)
        assert found == whole[: len(found)]
        assert len(found) >= most
        most = len(found)
        assert sum(sflow.problems.values()) >= 1
    assert most == len(whole) - 1


def test_neighbours_of_a_broken_datagram_survive() -> None:
    stem = "ovs_sflow_mixed"
    good = list(payloads(stem))[:20]
    broken = [(payload[:61], sender, port, time_us) for payload, sender, port, time_us in good]
    sflow = Sflow()
    mixed = [datagram for pair in zip(broken, good, strict=True) for datagram in pair]
    found = rows(sflow.decode_batch(Datagrams.of(mixed)).flows)
    lines = [line for line in truth(stem, "samples") if int(line["frame"]) <= 20]
    assert len(found) == len(lines)


def mutants(stem: str) -> st.SearchStrategy[list[bytes]]:
    """Datagrams of a capture with words overwritten, octets flipped, pieces cut, doubled or joined."""
    base = [payload for payload, _, _, _ in payloads(stem)[:40]]

    @st.composite
    def mutate(draw: st.DrawFn) -> bytes:
        payload = bytearray(draw(st.sampled_from(base)))
        for _ in range(draw(st.integers(1, 6))):
            at = draw(st.integers(0, max(len(payload) // 4 - 1, 0))) * 4
            match draw(st.integers(0, 4)):
                case 0:
                    payload[at : at + 4] = draw(st.sampled_from([0, 1, 3, 5, 255, 2**31, 2**32 - 1])).to_bytes(4, "big")
                case 1:
                    payload[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
                case 2:
                    del payload[draw(st.integers(0, len(payload))) :]
                case 3:
                    payload[at:at] = payload[at : at + draw(st.integers(1, 200))]
                case _:
                    payload[at:] = draw(st.sampled_from(base))[at:]
        return bytes(payload)

    return st.lists(mutate(), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.one_of([mutants(stem) for stem in STEMS]))
def test_mutated_captures_never_raise_and_give_sane_rows(datagrams: list[bytes]) -> None:
    sflow = Sflow()
    result = sflow.decode(*datagrams)
    octets = sum(len(datagram) for datagram in datagrams)
    flows = rows(result.flows)
    assert len(flows) * 72 <= octets
    assert len(rows(result.counters)) * 28 <= octets
    for row in flows:
        assert row["sampling_rate"] >= 1
        assert row["packets"] == 1
        assert row["src_mac"] or row["dst_mac"] or row["src_ip"] != bytes(16) or row["dst_ip"] != bytes(16)
    assert Reason.INTERNAL not in sflow.problems


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_behind_a_version_5_never_raise(octets: bytes) -> None:
    Sflow().decode(b"\0\0\0\5" + octets, b"\0\0\0\5\0\0\0\1" + octets)


def fingerprint() -> str:
    """What a fixed set of mutants decodes to, as one string; run compiled and uncompiled."""
    random = np.random.default_rng(7)
    found = []
    for stem in STEMS:
        base = [payload for payload, _, _, _ in payloads(stem)[:24]]
        sflow = Sflow()
        for payload in base:
            octets = bytearray(payload)
            for at in random.integers(0, len(octets), random.integers(0, 5)):
                octets[at] = random.integers(0, 256)
            result = sflow.decode(bytes(octets[: len(octets) - int(random.integers(0, 2)) * 5]))
            found.append([rows(result.flows), rows(result.counters), rows(result.drops), rows(result.inventory)])
        found.append([sflow.shared.sessions.stats[:8].tolist(), {r.name: n for r, n in sflow.problems.items()}])
    return json.dumps(found, default=repr)


def test_uncompiled_kernels_give_the_same_rows_as_compiled_ones() -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "from tests.decoders.sflow.test_hostile import fingerprint; print(fingerprint())",
    ]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2_000:]
    assert run.stdout.strip() == fingerprint()


@pytest.mark.network
def test_tshark_reads_the_same_samples() -> None:
    """A second opinion that is not ours: lengths, MACs and TCP ports of the sampled packets, in order.

    tshark 4.0 stops reading a datagram at the tunnel records of Open vSwitch, so this capture is pmacct's.
    """
    stem = "pmacct_sfprobe_s16"
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed")
    fields = ("sflow_245.header.frame_length", "sflow_245.header.payload_stripped", "eth.src", "eth.dst", "tcp.srcport")
    command = [tshark, "-r", str(PCAPS / f"{stem}.pcap"), "-d", "udp.port==6343,sflow", "-Y", "sflow", "-T", "fields"]
    command += [option for field in fields for option in ("-e", field)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    columns: list[list[str]] = [[], [], [], [], []]
    for line in run.stdout.splitlines():
        for number, values in enumerate(line.split("\t")):
            skipped = 1 if number in (2, 3) else 0  # the MACs of the frame that carries the datagram
            columns[number] += [value for value in values.split(",") if value][skipped:]
    lengths, stripped, sources, destinations, ports = columns
    found = rows(Sflow().decode_batch(Datagrams.of(payloads(stem))).flows)
    assert [row["frame_bytes"] for row in found] == [int(a) - int(b) for a, b in zip(lengths, stripped, strict=True)]
    assert [row["src_mac"] for row in found] == [mac(text) for text in sources]
    assert [row["dst_mac"] for row in found] == [mac(text) for text in destinations]
    assert [row["src_port"] for row in found if row["ip_protocol"] == 6] == [int(text) for text in ports]
