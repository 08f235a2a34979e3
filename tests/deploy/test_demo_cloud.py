"""The made-up cloud of deploy/demo: the product and others read what it exports; compared with its truth."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import compress
from pathlib import Path
from typing import Any

import netflow
import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from collector.capture.read import CapturedDatagram, read_capture
from collector.inventory.history import History
from collector.inventory.naming import Namer
from collector.inventory.snapshot import build
from collector.inventory.sources.base import Report
from collector.inventory.sources.static_file import parse
from collector.settings import load
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.errors import Reason
from decoders.sessions import S_DUPLICATES, S_LOST, S_REORDERED, S_RESTARTS, S_SAMPLES_LOST
from deploy.demo import wire
from deploy.demo.cloud import main, parser
from deploy.demo.model import TROUBLES, Cloud
from schemas.inventory import Rank
from tests.decoders.support import address, rows

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--vms", "30", "--hypervisors", "4", "--traffic", "0.2")
"""hv1 and hv2 send sFlow, hv3 IPFIX, hv4 NetFlow v5; about 20 datagrams a second."""
WINDOW_US = 10_000_000
Pair = tuple[str, str]


@dataclass
class Made:
    """A run into files, and what the product reads in them."""

    datagrams: list[CapturedDatagram]
    truth: list[dict[str, Any]]
    inventory: Report
    flows: list[dict[str, Any]]
    counters: list[dict[str, Any]]
    problems: dict[Reason, int]
    stats: Callable[[int], int]

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """Lines of the truth."""
        return [line for line in self.truth if line["kind"] == kind]

    @property
    def vms(self) -> dict[int, dict[str, Any]]:
        """By MAC address."""
        return {vm["mac"]: vm for vm in self.lines("cloud")[0]["vms"]}

    def host(self, name: str) -> bytes:
        """Address of an exporter, as columns have it."""
        return next(address(host["address"]) for host in self.lines("cloud")[0]["hosts"] if host["name"] == name)

    def of(self, name: str, **columns: Any) -> list[dict[str, Any]]:
        """Flows of an exporter with these values."""
        exporter = self.host(name)
        return [
            row
            for row in self.flows
            if row["exporter"] == exporter and all(row[column] == value for column, value in columns.items())
        ]

    def pair(self, row: dict[str, Any]) -> Pair:
        """The VMs that the inventory named."""
        return f"{row['src_project']}/{row['src_vm']}", f"{row['dst_project']}/{row['dst_vm']}"

    def sums(self, flows: list[dict[str, Any]], *columns: str) -> dict[Pair, tuple[int, ...]]:
        """Sums of columns by pair."""
        found: dict[Pair, list[int]] = defaultdict(lambda: [0] * len(columns))
        for row in flows:
            for place, column in enumerate(columns):
                found[self.pair(row)][place] += row[column]
        return {pair: tuple(values) for pair, values in found.items()}

    def true(self, side: str, host: str, what: str = "packets") -> dict[Pair, int]:
        """What really went out (`side` src, sent) or came in (dst, received) at a host, by pair."""
        found: Counter[Pair] = Counter()
        done = "sent" if side == "src" else "received"
        for line in self.lines("pair"):
            if line[f"{side}_host"] == host and line[f"{done}_{what}"]:
                found[line["src"], line["dst"]] += line[f"{done}_{what}"]
        return dict(found)


def run(folder: Path, *options: str, inventory: str = "vms.toml") -> Made:
    """Run the cloud into a capture, and read it."""
    capture, truth, names = folder / "cloud.pcap", folder / "truth.jsonl", folder / inventory
    made = [*SMALL, "--pcap", str(capture), "--truth", str(truth), "--inventory", str(names), *options]
    assert main(made) == 0
    datagrams = list(read_capture(capture))
    decoder = Decoder()
    batch = Datagrams.of((d.payload, d.source, d.source_port, d.time_us) for d in datagrams)
    with np.errstate(over="ignore"):  # hashes wrap; numpy warns of it where kernels are not compiled
        decoded = decoder.decode(batch)
    said = parse(names, names.read_bytes())
    known = History(capacity=10_000, history_us=3_600_000_000, short_names=False)
    known.apply("static", Rank.STATIC, said.interfaces, said.hosts, at_us=1)
    namer = Namer(3_600_000_000, 3_000_000)
    namer.snapshot = build(known.columns, known.addresses())
    sessions = decoder.shared.sessions
    totals = sessions.problems.sum(axis=0)
    return Made(
        datagrams,
        [json.loads(line) for line in truth.read_text().splitlines()],
        said,
        rows([namer.flows(flows) for flows in decoded.flows]),
        rows(decoded.counters),
        {reason: int(totals[reason]) for reason in Reason if totals[reason]},
        lambda column: int(sessions.stats[:, column].sum()),
    )


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Twenty seconds without trouble."""
    return run(tmp_path_factory.mktemp("healthy"), "--seconds", "20", "--trouble", "none")


@pytest.fixture(scope="module")
def every_packet(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three seconds of which sFlow samples every packet."""
    options = ("--seconds", "3", "--trouble", "none", "--traffic", "0.05", "--sampling", "1")
    return run(tmp_path_factory.mktemp("every"), *options)


def test_the_product_reads_all_of_it(healthy: Made) -> None:
    """Only the record of Open vSwitch that the product leaves out (2203) is skipped: one a poll and sFlow host."""
    assert healthy.problems == {Reason.SKIPPED_RECORD: 4}
    assert [healthy.stats(of) for of in (S_LOST, S_SAMPLES_LOST, S_DUPLICATES, S_REORDERED, S_RESTARTS)] == [0] * 5
    exporters = {str(IPv4Address(row["exporter"][12:])): row["protocol"] for row in healthy.flows}
    assert exporters == {
        "127.1.0.11": "sflow5", "127.1.0.12": "sflow5", "127.1.0.13": "ipfix", "127.1.0.14": "netflow5"
    }  # fmt: skip


def test_ipfix_counts_are_exact(healthy: Made) -> None:
    """As they come in from VMs, as they go out to VMs; bytes without and with the Ethernet header."""
    ingress = [row for row in healthy.of("hv3", direction="ingress") if row["sighting"] in ("source", "both")]
    egress = healthy.of("hv3", direction="egress")

    sent, received = (healthy.sums(part, "packets", "frame_bytes", "bytes") for part in (ingress, egress))

    packets, octets = healthy.true("src", "hv3"), healthy.true("src", "hv3", "bytes")
    assert sent == {pair: (packets[pair], octets[pair], octets[pair] - 14 * packets[pair]) for pair in packets}
    packets, octets = healthy.true("dst", "hv3"), healthy.true("dst", "hv3", "bytes")
    assert received == {pair: (packets[pair], octets[pair], octets[pair] - 14 * packets[pair]) for pair in packets}
    assert len(sent) > 10
    assert len(received) > 10


def test_netflow_counts_are_exact(healthy: Made) -> None:
    """With the encapsulation where packets go into the tunnel."""
    flows = healthy.of("hv4")
    sent = healthy.sums([row for row in flows if row["in_if"] != 1], "packets")
    received = healthy.sums([row for row in flows if row["out_if"] != 1], "packets", "bytes")
    into = sum(row["bytes"] - 50 * row["packets"] for row in flows if row["out_if"] == 1)
    inside = sum(row["bytes"] for row in flows if 1 not in (row["in_if"], row["out_if"]))

    assert {pair: packets for pair, (packets,) in sent.items()} == healthy.true("src", "hv4")
    octets = healthy.true("dst", "hv4", "bytes")
    assert received == {pair: (packets, octets[pair]) for pair, packets in healthy.true("dst", "hv4").items()}
    assert into + inside == sum(healthy.true("src", "hv4", "bytes").values())


def test_sflow_counts_are_within_the_error_of_sampling(healthy: Made) -> None:
    """Five standard deviations of so many samples, for each host and for each pair."""
    for host in ("hv1", "hv2"):
        flows = [row for row in healthy.of(host) if row["sighting"] in ("source", "both")]
        estimated = {pair: packets for pair, (packets,) in healthy.sums(flows, "packets").items()}
        true = healthy.true("src", host)
        assert {row["sampling_rate"] for row in flows} == {64}
        estimated["all", "all"], true["all", "all"] = sum(estimated.values()), sum(true.values())
        assert set(estimated) <= set(true)
        for pair, packets in true.items():
            expected = packets / 64
            assert abs(estimated.get(pair, 0) - expected) <= 5 * math.sqrt(expected) + 3, pair


def test_sflow_of_every_packet_is_exact(every_packet: Made) -> None:
    """Of both ends, with handshakes: one SYN for each connection."""
    flows = [row for name in ("hv1", "hv2") for row in every_packet.of(name)]
    sent = every_packet.sums([row for row in flows if row["sighting"] in ("source", "both")], "samples")
    received = every_packet.sums([row for row in flows if row["sighting"] in ("destination", "both")], "samples")
    syns = [row for row in flows if row["tcp_flags"] == wire.SYN and row["sighting"] in ("source", "both")]

    true = {**every_packet.true("src", "hv1"), **every_packet.true("src", "hv2")}
    assert {pair: packets for pair, (packets,) in sent.items()} == true
    true = {**every_packet.true("dst", "hv1"), **every_packet.true("dst", "hv2")}
    assert {pair: packets for pair, (packets,) in received.items()} == true
    connections = Counter(every_packet.pair(row) for row in syns)
    assert connections == {
        (line["src"], line["dst"]): line["connections"]
        for line in every_packet.lines("pair")
        if line["src_host"] in ("hv1", "hv2") and line["connections"]
    }


def test_tunnels_say_whose_network_it_is(healthy: Made) -> None:
    tunnelled = [row for row in healthy.flows if row["tunnel"] == "vxlan"]

    assert {row["vni"] for row in tunnelled} == {5001, 5002, 5003}
    assert all(row["vni"] == healthy.vms[row["src_mac"]]["vni"] for row in tunnelled)
    ends = {host["tunnel_end"] for host in healthy.lines("cloud")[0]["hosts"]}
    assert {str(IPv4Address(row["outer_src_ip"][12:])) for row in tunnelled} <= ends


def test_inventory_names_both_ends_of_everything(healthy: Made) -> None:
    """Though the three tenants have the same addresses."""
    assert len({vm["ip"] for vm in healthy.vms.values()}) == 10
    assert all(row["src_vm"] and row["dst_vm"] for row in healthy.flows)
    assert all(row["src_project"] == row["dst_project"] for row in healthy.flows)
    known = [row for row in healthy.flows if row["src_mac"]]
    assert all(healthy.pair(row)[0] == healthy.vms[row["src_mac"]]["vm"] for row in known)
    assert {row["sighting"] for row in healthy.flows} == {"source", "destination", "both", "transit"}


def test_inventory_as_csv_says_the_same_of_vms(tmp_path: Path, healthy: Made) -> None:
    made = run(tmp_path, "--seconds", "1", "--trouble", "none", inventory="vms.csv")

    assert made.inventory.interfaces == healthy.inventory.interfaces
    assert made.inventory.hosts == ()


def test_counters_are_those_of_the_ports(healthy: Made) -> None:
    """The first port of each host is polled at the end of each window."""
    first_us = healthy.lines("cloud")[0]["start_us"]
    for name in ("hv1", "hv2"):
        polls = [row for row in healthy.counters if row["exporter"] == healthy.host(name) and row["if_name"] == "vnet0"]
        vm = next(vm["vm"] for vm in healthy.vms.values() if (vm["host"], vm["port"]) == (name, "vnet0"))
        pairs = [line for line in healthy.lines("pair") if line["window_us"] == first_us + WINDOW_US]
        assert [row["time_received"] for row in polls] == [first_us + n * WINDOW_US - 1 for n in (1, 2)]
        for column, side, done in (("in", "src", "sent"), ("out", "dst", "received")):
            true = sum(line[f"{done}_bytes"] for line in pairs if line[side] == vm)
            assert polls[1][f"{column}_bytes"] - polls[0][f"{column}_bytes"] == true


def test_the_package_netflow_reads_the_same(healthy: Made) -> None:
    flows = [
        flow
        for datagram in healthy.datagrams
        if datagram.source == "127.1.0.14"
        for flow in netflow.parse_packet(datagram.payload).flows
    ]

    ours = healthy.of("hv4")
    assert [(str(IPv4Address(f.IPV4_SRC_ADDR)), f.SRC_PORT, f.IN_PACKETS, f.IN_OCTETS, f.TCP_FLAGS) for f in flows] == [
        (str(IPv4Address(row["src_ip"][12:])), row["src_port"], row["packets"], row["bytes"], row["tcp_flags"])
        for row in ours
    ]


def test_others_read_sampled_headers(every_packet: Made) -> None:
    """Scapy's IPv4 checksum is ours, and so are the flags."""
    payload = next(datagram.payload for datagram in every_packet.datagrams if datagram.source == "127.1.0.11")
    at = payload.index(struct.pack("!III", 1, 90, 0)[:4], 28 + 8 + 32 + 24)
    length, protocol, frame, stripped, size = struct.unpack_from("!5I", payload, at + 4)
    header = payload[at + 24 : at + 24 + size]
    read = Ether(header)
    again = IP(bytes(read[IP]))
    del again.chksum

    assert (protocol, stripped) == (1, 4)
    assert length == 16 + size + -size % 4
    assert read[IP].len == frame - 4 - 14
    assert IP(bytes(again)).chksum == read[IP].chksum
    assert int(read[TCP].flags) & ~(wire.SYN | wire.ACK | wire.FIN) == 0


@pytest.mark.network
def test_tshark_reads_the_same(tmp_path: Path) -> None:
    """Packets of each exporter of flow records; sFlow of Open vSwitch is more than tshark 4.0 can read."""
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed")
    made = run(tmp_path, "--seconds", "3", "--trouble", "none")
    fields = [word for field in ("ip.src", "_ws.malformed", "cflow.packets") for word in ("-e", field)]
    command = [tshark, "-r", str(tmp_path / "cloud.pcap"), "-Y", "cflow", "-T", "fields", *fields]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    packets: Counter[str] = Counter()
    for line in read.splitlines():
        source, malformed, counts = line.split("\t")
        assert malformed == ""
        packets[source] += sum(int(count) for count in counts.split(",") if count)
    assert packets == {
        "127.1.0.13": sum(row["packets"] for row in made.of("hv3")),
        "127.1.0.14": sum(row["packets"] for row in made.of("hv4")),
    }


def test_the_same_seed_gives_the_same_octets(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate(("7", "7", "8")):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = run(folder, "--seconds", "2", "--seed", seed)
        found.append((made.datagrams, made.truth))

    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


class TestTrouble:
    """Each trouble is in the truth, with its time and its pairs, and in what is exported."""

    def test_all_are_in_the_truth(self, tmp_path: Path) -> None:
        wishes = ",".join(f"{name}@{place + 1}+2" for place, name in enumerate(TROUBLES))
        made = run(tmp_path, "--seconds", "10", "--trouble", wishes, "--hypervisors", "6", "--traffic", "0.05")

        start_us = made.lines("cloud")[0]["start_us"]
        for kind in ("schedule", "trouble"):
            found = {
                line["name"]: (line["start_us"] - start_us, line["end_us"] - start_us) for line in made.lines(kind)
            }
            assert found == {
                name: ((place + 1) * 1_000_000, (place + 3) * 1_000_000) for place, name in enumerate(TROUBLES)
            }
        found_vms = {line["name"]: line["vms"] for line in made.lines("trouble")}
        assert {name: len(vms) for name, vms in found_vms.items() if vms} == {"scan": 1, "migration": 1}
        (scanner,) = [vm["host"] for vm in made.vms.values() if [vm["vm"]] == found_vms["scan"]]
        assert {line["name"]: line["hosts"] for line in made.lines("trouble")} == {
            "loss": ["hv4", "hv5"], "slow": ["hv4", "hv5"], "scan": [scanner], "migration": ["hv1", "hv2"],
            "restart": ["hv1", "hv4"], "wrong-rate": ["hv3"], "no-polling": ["hv2"], "blind": ["hv5"],
        }  # fmt: skip
        assert all(line["pairs"] and line["what"] == TROUBLES[line["name"]] for line in made.lines("trouble"))

    def test_loss_and_latency_are_as_said(self, tmp_path: Path) -> None:
        """4 % of very many packets, and 20 ms more; nothing of it elsewhere."""
        truth = tmp_path / "truth.jsonl"
        options = ["--seconds", "30", "--trouble", "loss@0+30,slow@0+30", "--hypervisors", "5", "--traffic", "10"]
        assert main([*SMALL, *options, "--pcap", str(tmp_path / "cloud.pcap"), "--truth", str(truth)]) == 0
        made = [json.loads(line) for line in truth.read_text().splitlines()]

        bad, lines, others = split(made)
        sent, received = (sum(line[f"{done}_packets"] for line in lines) for done in ("sent", "received"))
        assert bad
        assert sent > 5_000
        assert abs(1 - received / sent - 0.04) < 5 * math.sqrt(0.04 * 0.96 / sent)
        assert all(line["latency_us"] > 20_000 for line in lines if line["latency_us"])
        assert all(line["latency_us"] < 1_000 for line in others if line["latency_us"])
        assert [line["loss"] for line in others] == [0.0] * len(others)

    def test_loss_and_latency_are_seen(self, tmp_path: Path) -> None:
        """Between hv3 and hv4, that have IPFIX: what went out of one did not all come in at the other."""
        made = run(tmp_path, "--seconds", "20", "--trouble", "loss@0+20,slow@0+20", "--hypervisors", "5")

        bad, lines, _ = split(made.truth)
        sent, received = (sum(line[f"{done}_packets"] for line in lines) for done in ("sent", "received"))
        flows = [*made.of("hv3"), *made.of("hv4")]
        went = [row for row in flows if row["sighting"] == "source" and made.pair(row) in bad]
        came = [row for row in flows if row["sighting"] == "destination" and made.pair(row) in bad]
        assert sent > received
        assert sum(row["packets"] for row in went) == sent
        assert sum(row["packets"] for row in came) == received
        clocks = {made.host(host["name"]): host["clock_us"] for host in made.lines("cloud")[0]["hosts"]}
        first = starts(went, clocks)
        delays = [start - first[key] for key, start in starts(came, clocks).items()]
        # Both starts are cut to whole milliseconds.
        assert 19_000 < min(delays) < 22_000

    def test_a_scan_opens_many_connections(self, tmp_path: Path) -> None:
        made = run(tmp_path, "--seconds", "10", "--trouble", "scan@0+10")

        lines = [line for line in made.lines("pair") if line["src"] == "school/web-1"]
        connections = sum(line["connections"] for line in lines)
        assert abs(connections - 500) < 5 * math.sqrt(500) + 30
        assert len(lines) == 9

    def test_a_migration_changes_port_and_host(self, tmp_path: Path) -> None:
        made = run(tmp_path, "--seconds", "20", "--trouble", "migration@10", "--sampling", "16")

        line = made.lines("trouble")[0]
        vm = next(vm for vm in made.vms.values() if [vm["vm"]] == line["vms"])
        moved = next(interface for interface in made.inventory.interfaces if interface.mac == vm["mac"])
        assert (vm["host"], moved.host) == ("hv1", "hv2")
        of = {name: [row for row in made.of(name, src_mac=vm["mac"]) if row["in_if"]] for name in ("hv1", "hv2")}
        assert of["hv1"]
        assert of["hv2"]
        assert max(row["time_received"] for row in of["hv1"]) <= line["start_us"]
        assert min(row["time_received"] for row in of["hv2"]) >= line["start_us"]
        assert {row["in_if"] for row in of["hv2"]} == {moved.if_index}

    def test_a_restart_is_no_loss(self, tmp_path: Path) -> None:
        """Sequences begin again, templates come again, from another port."""
        made = run(tmp_path, "--seconds", "20", "--trouble", "restart@12")

        assert made.problems == {Reason.SKIPPED_RECORD: 4}
        assert (made.stats(S_LOST), made.stats(S_SAMPLES_LOST)) == (0, 0)
        for source, destination in (("127.1.0.11", "sflow"), ("127.1.0.13", "ipfix")):
            mine = [datagram for datagram in made.datagrams if datagram.source == source]
            ports = sorted({datagram.source_port for datagram in mine})
            assert len(ports) == 2
            offset = 16 if destination == "sflow" else 8
            for port in ports:
                first = next(datagram.payload for datagram in mine if datagram.source_port == port)
                assert struct.unpack_from("!I", first, offset) == (1,)
        messages = [datagram.payload for datagram in made.datagrams if datagram.source == "127.1.0.13"]
        assert sum(payload[16:18] == b"\0\2" for payload in messages) == 2 * 18

    def test_a_wrong_rate_states_one(self, tmp_path: Path) -> None:
        made = run(tmp_path, "--seconds", "10", "--trouble", "wrong-rate@5+4")

        start_us = made.lines("trouble")[0]["start_us"]
        rates = {(row["time_received"] - start_us) // 1_000_000: row["sampling_rate"] for row in made.of("hv2")}
        assert [rates[second] for second in (-2, 0, 1, 2, 3, 4)] == [64, 1, 1, 1, 1, 64]

    def test_an_exporter_that_does_not_poll(self, tmp_path: Path) -> None:
        made = run(tmp_path, "--seconds", "20", "--trouble", "no-polling@10+10")

        line = made.lines("trouble")[0]
        polled = [row["time_received"] for row in made.counters if row["exporter"] == made.host(line["hosts"][0])]
        assert polled
        assert max(polled) < line["start_us"]
        assert any(row["time_received"] > line["start_us"] for row in made.of(line["hosts"][0]))

    def test_a_blind_host_has_no_arrivals(self, tmp_path: Path) -> None:
        made = run(tmp_path, "--seconds", "20", "--trouble", "blind@10+10")

        start_us = made.lines("trouble")[0]["start_us"]
        egress = made.of("hv3", direction="egress")
        assert sum(row["packets"] for row in egress) == sum(
            line["received_packets"]
            for line in made.lines("pair")
            if line["dst_host"] == "hv3" and line["window_us"] < start_us
        )
        assert any(row["time_received"] > start_us for row in made.of("hv3", direction="ingress"))


def split(truth: list[dict[str, Any]]) -> tuple[set[Pair], list[dict[str, Any]], list[dict[str, Any]]]:
    """Pairs of the first trouble both ways; the lines of these pairs, and of others."""
    trouble = next(line for line in truth if line["kind"] == "trouble")
    bad = {(a, b) for pair in trouble["pairs"] for a, b in (pair, reversed(pair))}
    lines = [line for line in truth if line["kind"] == "pair"]
    mine = [(line["src"], line["dst"]) in bad for line in lines]
    return bad, list(compress(lines, mine)), [line for line, bad_one in zip(lines, mine, strict=True) if not bad_one]


def starts(flows: list[dict[str, Any]], clocks: dict[bytes, int]) -> dict[tuple[int, ...], int]:
    """First start of each connection, by the right clock."""
    found: dict[tuple[int, ...], int] = {}
    for row in flows:
        key = (row["src_mac"], row["dst_mac"], row["src_port"], row["dst_port"], row["ip_protocol"])
        start = row["flow_start"] - clocks[row["exporter"]]
        found[key] = min(start, found.get(key, start))
    return found


class TestCommand:
    """The command line, as processes."""

    @pytest.fixture
    def receiver(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(20)
            yield receiver

    def command(self, *options: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "deploy.demo.cloud", *options]
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def complaints(self, stderr: str) -> list[str]:
        """Lines but the one that a busy machine makes it write."""
        return [line for line in stderr.splitlines() if not line.startswith("this machine is too slow: ")]

    def test_each_host_sends_from_its_own_address(self, receiver: socket.socket) -> None:
        to = f"127.0.0.1:{receiver.getsockname()[1]}"
        process = self.command(*SMALL, "--to", to, "--seconds", "2", "--trouble", "none")
        found: dict[str, set[int]] = defaultdict(set)
        while len(found) < 4:
            payload, (source, _) = receiver.recvfrom(65_536)
            found[source].add(int.from_bytes(payload[:4], "big") if payload[0] == 0 and payload[1] == 0 else payload[1])
        stdout, stderr = process.communicate(timeout=60)

        assert (process.returncode, self.complaints(stderr)) == (0, [])
        assert dict(found) == {"127.1.0.11": {5}, "127.1.0.12": {5}, "127.1.0.13": {10}, "127.1.0.14": {5}}
        assert stdout.splitlines()[-1].endswith(f" datagrams sent, 0 refused by {to}")

    def test_ctrl_c_ends_it_cleanly(self, receiver: socket.socket, tmp_path: Path) -> None:
        to, truth = f"127.0.0.1:{receiver.getsockname()[1]}", tmp_path / "truth"
        process = self.command(*SMALL, "--to", to, "--truth", str(truth))
        receiver.recvfrom(65_536)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)

        assert (process.returncode, self.complaints(stderr)) == (0, [])
        assert "datagrams sent" in stdout
        assert [json.loads(line)["kind"] for line in truth.read_text().splitlines()] == ["cloud", *["schedule"] * 8]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--vms", "3"], "expected at least 1 hypervisor and 30 VMs, found 8 and 3"),
            (["--hypervisors", "1"], "trouble loss needs more hypervisors than 1"),
            (["--trouble", "flood"], "expected NAME or NAME@START+LENGTH with one of loss, slow, scan"),
            (["--trouble", "loss@x"], "expected NAME or NAME@START+LENGTH with one of loss, slow, scan"),
            (["--speed", "0"], "expected a number above 0 for --speed, found 0.0"),
            (["--seed", "-1"], "expected no negative number for --seed, found -1"),
            (["--start", "tomorrow", "--pcap", "/dev/null"], "expected an ISO time such as 2026-01-05T14:00:00"),
            (["--start", "2026-01-01"], "expected --start now, or none, for what is sent"),
            (["--to", "127.0.0.1:x"], "expected a port from 1 to 65535 in the target, found 'x'"),
            (["--pcap", "/no/where.pcap"], "[Errno 2] No such file or directory: '/no/where.pcap'"),
            (["--truth", "/no/where.jsonl"], "[Errno 2] No such file or directory: '/no/where.jsonl'"),
            (["--inventory", "/no/where.csv"], "[Errno 2] No such file or directory: '/no/where.csv.new'"),
        ],
    )
    def test_mistakes_are_one_line(self, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(options) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"cloud: {message}")


class TestPage:
    """docs/demo.md."""

    text = (ROOT / "docs" / "demo.md").read_text("utf-8")

    def test_settings_are_right(self, tmp_path: Path) -> None:
        """They name the exporters that send unsampled IPFIX, eight hypervisors being usual."""
        (block,) = re.findall(r"```toml\n(.*?)```", self.text, re.DOTALL)
        file = tmp_path / "demo.toml"
        file.write_text(block)
        settings = load(file)
        cloud = Cloud(1, 8, 120, 1.0, 64)

        (rule,) = settings.decode.exporters
        assert all(IPv4Address(host.address) in IPv4Network("127.1.0.0/16") for host in cloud.hosts)
        assert (str(rule.network), rule.protocol, rule.sampling_rate) == ("127.1.0.0/16", "ipfix", 1)
        assert [host.protocol for host in cloud.hosts] == [*["sflow"] * 4, *["ipfix"] * 3, "netflow5"]

    def test_troubles_are_all_there(self) -> None:
        section = self.text.partition("\n## Trouble\n")[2].partition("\n## ")[0]

        assert re.findall(r"^\| `([a-z-]+)` \| ", section, re.MULTILINE) == list(TROUBLES)

    def test_commands_are_right(self) -> None:
        """Options of the lines that start the cloud."""
        lines = [line for line in self.text.splitlines() if line.startswith(".venv/bin/python -m deploy.demo.cloud")]
        for line in lines:
            options = parser().parse_args(shlex.split(line, comments=True)[3:])
            assert options.truth
        assert len(lines) == 2
