"""The meter against a simulation that knows what happened, and against tshark on the same captures."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from collector.capture.files import CaptureProblems
from collector.capture.mirrored import read_mirrored
from decoders.mirror import results
from decoders.mirror.meter import count
from decoders.mirror.state import Meter, new_meter
from tests.mirror.simulated import SIZE, Plan, play
from tests.mirror.support import Talk, Timed, meter_of, tshark, write_pcap
from tests.service import FIXTURES

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed (Debian: tshark)")
SEEDS = range(int(os.environ.get("VMFLOW_MIRROR_SEEDS", "2")))

PLANS = {
    "clean": Plan(),
    "behind": Plan(lost_behind=0.03),
    "before": Plan(lost_before=0.03),
    "late": Plan(late=0.03),
    "acks": Plan(ack_lost=0.05),
    "copies": Plan(copied=0.5, lost_behind=0.03),
    "all": Plan(lost_before=0.01, lost_behind=0.01, late=0.01, ack_lost=0.02, copied=0.1),
}


@pytest.mark.parametrize("name", PLANS)
def test_what_happened_is_what_is_counted(name: str) -> None:
    """All of it: the mirror sees each packet, and the round trip tells reordering from loss."""
    for seed in SEEDS:
        played = play(PLANS[name], seed)
        (row,) = results.connections(meter_of(played.talk.frames))
        found = {
            "retransmitted": row["retransmitted_segments_to_server"],
            "lost_before": row["lost_before_segments_to_server"],
            "reordered": row["reordered_segments_to_server"],
            "copied": row["duplicate_packets_to_server"] + row["duplicate_packets_to_client"],
        }

        assert found == {what: played.truth[what] for what in found}, seed
        assert row["capture_gap_octets_to_server"] == 0
        if name != "clean":
            assert sum(found.values()) > 0


def test_round_trips_are_those_of_the_path() -> None:
    """Jitter adds up to a tenth, one way each."""
    (row,) = results.connections(meter_of(play(PLANS["all"], 1).talk.frames))

    assert row["handshake_server_us"] == 1000
    assert row["handshake_client_us"] == 400
    assert 1000 <= row["rtt_server_min_us"] <= row["rtt_server_median_us"] <= 1150


@pytest.mark.parametrize("name", [name for name, plan in PLANS.items() if not plan.copied])
@needs_tshark
def test_tshark_agrees(name: str, tmp_path: Path) -> None:
    """Its kinds of segments out of order add up to ours; which is which it judges by 3 ms and the handshake.

    Second copies it takes for retransmissions.
    """
    played = play(PLANS[name], 0)
    path = write_pcap(tmp_path / "x.pcap", played.talk.frames, snap=96)
    kinds = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
    fields = [f"tcp.analysis.{kind}" for kind in kinds]
    packets = tshark(
        path, [*fields, "tcp.analysis.ack_rtt", "tcp.analysis.initial_rtt", "tcp.len", "ip.len", "tcp.srcport"]
    )
    (row,) = results.connections(read(path))

    again = sum(any(packet[field] for field in fields) for packet in packets)
    ours = ("retransmitted", "lost_before", "reordered")
    assert sum(row[f"{kind}_segments_to_server"] for kind in ours) == again
    assert row["octets_to_server"] == sum(int(p["ip.len"]) for p in packets if p["tcp.srcport"] == "40000")
    assert row["data_segments_to_server"] == sum(p["tcp.len"] == str(SIZE) for p in packets)
    initial = {packet["tcp.analysis.initial_rtt"] for packet in packets} - {""}
    assert [round(float(one) * 1e6) for one in initial] == [row["handshake_server_us"] + row["handshake_client_us"]]
    if name == "clean":
        # It times each segment, the meter one at a time.
        acked = [float(p["tcp.analysis.ack_rtt"] or 0) * 1e6 for p in packets if p["tcp.srcport"] == "80"]
        acked = [round(us) for us in acked[1:] if us]
        assert row["rtt_server_min_us"] in acked
        assert abs(np.median(acked) - row["rtt_server_median_us"]) < 20


def read(path: Path) -> Meter:
    """The meter after a capture file."""
    meter = new_meter(256, secret=1)
    for frames, ethernet in read_mirrored(path, CaptureProblems()):
        count(meter, frames, ethernet)
    return meter


@pytest.mark.parametrize("side", ["before", "behind"])
def test_losses_of_a_router_are_placed(side: str) -> None:
    """Linux, iperf3 and iptables: before the router each loss is sent again, behind it each fills a gap."""
    truth = json.loads((FIXTURES / f"mirror_{side}.truth.json").read_text())
    rows = results.connections(read(FIXTURES / f"mirror_{side}.pcap"))
    streams = [row for row in rows if row["data_octets_to_server"] > 100_000]
    names = ("retransmitted_segments", "spurious_segments", "lost_before_segments", "reordered_segments")
    found = {name: sum(row[f"{name}_to_server"] for row in streams) for name in names}

    assert len(streams) == truth["streams"]
    assert truth["dropped"] == truth["retransmits"] > 10
    assert found == dict.fromkeys(names, 0) | {
        "retransmitted_segments" if side == "before" else "lost_before_segments": truth["dropped"]
    }
    assert sum(row[f"capture_gap_octets_{way}"] for row in rows for way in results.WAYS) == 0


@pytest.mark.parametrize("side", ["before", "behind"])
@needs_tshark
def test_tshark_agrees_on_them(side: str) -> None:
    path = FIXTURES / f"mirror_{side}.pcap"
    kinds = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
    fields = [f"tcp.analysis.{kind}" for kind in kinds]
    packets = tshark(path, [*fields, "tcp.stream", "ip.len", "tcp.len", "tcp.analysis.initial_rtt"], "-Y", "tcp")
    rows = results.connections(read(path))
    rows = [row for row in rows if row["ip_protocol"] == 6]

    assert len(rows) == len({packet["tcp.stream"] for packet in packets})
    octets = sum(row[f"octets_{way}"] for row in rows for way in results.WAYS)
    assert octets == sum(int(packet["ip.len"]) for packet in packets)
    data = sum(row[f"data_octets_{way}"] for row in rows for way in results.WAYS)
    assert data == sum(int(packet["tcp.len"]) for packet in packets)
    ours = ("retransmitted", "lost_before", "reordered")
    again = sum(row[f"{kind}_segments_{way}"] for row in rows for kind in ours for way in results.WAYS)
    assert again == sum(any(packet[field] for field in fields) for packet in packets)
    initial = {round(float(packet["tcp.analysis.initial_rtt"] or 0) * 1e6) for packet in packets} - {0}
    assert initial == {round(row["handshake_server_us"] + row["handshake_client_us"]) for row in rows}


@needs_tshark
def test_windows_resets_and_unseen_segments_as_tshark_has_them(tmp_path: Path) -> None:
    frames: list[Timed] = []
    for number in range(6):
        talk = Talk(client_port=40_000 + number)
        now = talk.open(at_us=number * 10_000)
        talk.packet(now + 10, 0, "PA", 1, 1, 100)
        talk.packet(now + 400, 1, "A", 1, 101 if number % 2 else 301, window=number % 3)
        if number == 4:
            talk.packet(now + 500, 1, "RA", 1, 301)
        frames += talk.frames
    path = write_pcap(tmp_path / "x.pcap", frames)
    fields = [
        "tcp.srcport",
        "tcp.dstport",
        "tcp.analysis.zero_window",
        "tcp.analysis.ack_lost_segment",
        "tcp.flags.reset",
    ]
    theirs: dict[int, Counter[str]] = defaultdict(Counter)
    for packet in tshark(path, fields):
        client = max(int(packet["tcp.srcport"]), int(packet["tcp.dstport"]))
        theirs[client].update(field for field in fields[2:4] if packet[field])
        theirs[client]["reset"] += packet["tcp.flags.reset"] in ("1", "True")
    rows = results.connections(read(path))

    assert len(rows) == 6
    for row in rows:
        expected = theirs[row["src_port"]]
        assert row["zero_windows_to_client"] == expected["tcp.analysis.zero_window"]
        assert (row["capture_gap_octets_to_server"] > 0) == (expected["tcp.analysis.ack_lost_segment"] > 0)
        assert (row["outcome"] == "reset_by_server") == (expected["reset"] > 0)
    assert {row["outcome"] for row in rows} == {"open", "reset_by_server"}
