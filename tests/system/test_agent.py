"""Probes between two network namespaces; the kernel's own counters say what was dropped, answered and sent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.service import ROOT

pytestmark = pytest.mark.system

ONE, TWO = "vma-ag1", "vma-ag2"
AGENT = [sys.executable, "-m", "collector", "agent"]
V4, V6 = "172.29.7.{}", "fd5a:7::{}"
"""Private addresses, which a reflector answers."""
FLOOD = """
import random, socket, struct, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
chance, sent, end = random.Random(1), 0, time.monotonic() + float(sys.argv[2])
octets = bytes(44)
target = socket.inet_aton(sys.argv[1])
while time.monotonic() < end:
    source = struct.pack("!BBH", 10, chance.randrange(256), chance.randrange(65536))
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(octets), 0, 0, 64, 17, 0, source, target)
    udp = struct.pack("!HHHH", chance.randrange(1024, 65536), 862, 8 + len(octets), 0)
    out.sendto(ip + udp + octets, (sys.argv[1], 0))
    sent += 1
print(sent)
"""
"""A sender in the names of millions, all private addresses."""


def missing() -> str:
    """Why these tests cannot run here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root: they make network namespaces"
    absent = [program for program in ("ip", "iptables") if shutil.which(program) is None]
    return f"needs the Debian packages of {', '.join(absent)}" if absent else ""


def call(*command: str, inside: str = "") -> str:
    """Output of a command, in a namespace."""
    where = ["ip", "netns", "exec", inside] if inside else []
    done = subprocess.run([*where, *command], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def wire() -> Iterator[None]:
    """Two namespaces that are joined by a cable."""
    if reason := missing():
        pytest.skip(reason)
    _down()
    try:
        for name in (ONE, TWO):
            call("ip", "netns", "add", name)
            call("ip", "link", "set", "lo", "up", inside=name)
        call("ip", "link", "add", "vma-v1", "netns", ONE, "type", "veth", "peer", "name", "vma-v2", "netns", TWO)
        for number, name in enumerate((ONE, TWO), 1):
            device = f"vma-v{number}"
            call("ip", "address", "add", f"{V4.format(number)}/24", "dev", device, inside=name)
            call("ip", "-6", "address", "add", f"{V6.format(number)}/64", "dev", device, "nodad", inside=name)
            call("ip", "link", "set", device, "up", inside=name)
        yield
    finally:
        _down()


def _down() -> None:
    for name in (ONE, TWO):
        if Path(f"/run/netns/{name}").exists():
            call("ip", "netns", "delete", name)


@contextmanager
def reflecting(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A reflector in the second namespace, on port 862 of all its addresses."""
    command = ["ip", "netns", "exec", TWO, *AGENT, "reflect", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("answers on 0.0.0.0:862, [::]:862"), line
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            process.wait(60)


def probe(target: str, *arguments: str) -> dict[str, object]:
    """What a probe from the first namespace measures."""
    item: dict[str, object] = json.loads(call(*AGENT, "probe", target, *arguments, "--format", "json", inside=ONE))
    return item


@contextmanager
def rule(name: str, chain: str, *match: str, jump: str = "DROP") -> Iterator[None]:
    """A rule of the firewall of a namespace, which counts."""
    call("iptables", "-A", chain, "-p", "udp", *match, "-j", jump, inside=name)
    try:
        yield
    finally:
        call("iptables", "-F", chain, inside=name)


def counted(name: str, chain: str) -> tuple[int, int]:
    """Packets and octets that the only rule of a chain has met."""
    line = call("iptables", "-nvxL", chain, inside=name).splitlines()[2]
    packets, octets = re.findall(r"\d+", line)[:2]
    return int(packets), int(octets)


@pytest.mark.parametrize("target", [V4.format(2), V6.format(2)])
def test_nothing_is_lost_on_a_cable_and_the_kernel_took_the_times(wire: None, target: str) -> None:
    with reflecting():
        item = probe(target, "-n", "100", "--every", "5ms")

    assert (item["sent"], item["received"], item["lost"], item["hops"]) == (100, 100, 0, 0)
    assert (item["timestamps"], item["reflector_timestamps"], item["reflector_mode"]) == (
        "kernel",
        "software",
        "stateful",
    )
    assert isinstance(item["rtt_median_us"], float)
    assert item["rtt_median_us"] < 1000  # a cable of this machine; user times would have the scheduler in it
    offset, error = item["clock_offset_us"], item["clock_error_us"]
    assert isinstance(offset, float)
    assert isinstance(error, float)
    assert abs(offset) <= error  # it is one clock


def test_loss_each_way_is_what_the_firewalls_dropped(wire: None) -> None:
    nth = ("-m", "statistic", "--mode", "nth", "--packet", "0", "--every")
    with (
        reflecting(),
        rule(TWO, "INPUT", "--dport", "862", *nth, "10"),
        rule(ONE, "INPUT", "--sport", "862", *nth, "7"),
    ):
        item = probe(V4.format(2), "-n", "200", "--every", "5ms")
        there, back = counted(TWO, "INPUT")[0], counted(ONE, "INPUT")[0]

    assert (there, back) == (20, 26)  # of 200, every 10th; of the 180 answers, every 7th from the first on
    assert (item["lost_forward"], item["lost_reverse"], item["lost_unresolved"]) == (there, back, 0)
    assert item["lost"] == there + back
    assert item["duplicates"] == item["reordered"] == 0


def test_a_delay_on_one_side_is_seen_on_that_side(wire: None) -> None:
    """By netem where the kernel has it; else a queue that is drained at 100 kbit/s holds up what follows a burst."""
    queue = ["tc", "qdisc", "add", "dev", "vma-v1", "root"]
    command = ["ip", "netns", "exec", ONE, *queue, "netem", "delay", "20ms"]
    netem = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not netem:
        call(*queue, "tbf", "rate", "100kbit", "burst", "1600", "limit", "100000", inside=ONE)
    try:
        with reflecting():
            item = probe(V4.format(2), "-n", "40", "--every", "5ms", "--octets", "400")
    finally:
        call("tc", "qdisc", "delete", "dev", "vma-v1", "root", inside=ONE)

    assert item["received"] == 40
    if netem:
        assert isinstance(item["rtt_min_us"], float)
        assert 20_000 <= item["rtt_min_us"] < 25_000
    else:
        # 40 frames of 442 octets at 5 ms ask for 707 kbit/s: the last waits for over a second.
        assert isinstance(item["forward_pdv_p99_us"], float)
        assert item["forward_pdv_p99_us"] > 500_000
        assert isinstance(item["reverse_pdv_p99_us"], float)
        assert item["reverse_pdv_p99_us"] < 50_000


def test_a_flood_is_answered_at_the_buckets_rate_with_no_more_octets_than_came(wire: None) -> None:
    seconds, per_second = 4, 500
    call("ip", "route", "add", "10.0.0.0/8", "via", V4.format(1), inside=TWO)
    with (
        reflecting("--per-second", str(per_second), "--format", "json") as process,
        rule(TWO, "OUTPUT", "--sport", "862", jump="ACCEPT"),
        rule(TWO, "INPUT", "--dport", "862", jump="ACCEPT"),
    ):
        began = time.monotonic()
        before_kb = _memory_kb(process)
        sent = int(call(sys.executable, "-c", FLOOD, V4.format(2), str(seconds), inside=ONE))
        until = time.monotonic() - began
        (came, octets_in), (answered, octets_out) = counted(TWO, "INPUT"), counted(TWO, "OUTPUT")
        grown_kb = _memory_kb(process) - before_kb
        # Others are measured again as soon as it is over.
        time.sleep(1)
        after = probe(V4.format(2), "-n", "5", "--every", "20ms")

    assert came == sent > 20_000
    assert 0 < answered <= per_second * (until + 1)
    assert octets_out <= octets_in * answered / came + 1  # each as long as its question
    assert grown_kb < 10_000
    assert after["received"] == 5


def _memory_kb(process: subprocess.Popen[str]) -> int:
    """Resident memory of the reflector: `ip netns exec` becomes it."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[0])


def test_without_a_route_it_says_so_in_a_line(wire: None) -> None:
    command = ["ip", "netns", "exec", ONE, *AGENT, "probe", "203.0.113.1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "vmflow agent probe: 203.0.113.1:862 cannot be reached: Network is unreachable\n"


def test_a_key_shuts_others_out_and_a_rule_of_the_firewall_is_told(wire: None, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    with reflecting("--key-file", str(key)):
        assert probe(V4.format(2), "-n", "5", "--every", "5ms", "--key-file", str(key))["received"] == 5
        with rule(TWO, "INPUT", "--dport", "862", "-m", "comment", "--comment", "x", jump="REJECT"):
            command = ["ip", "netns", "exec", ONE, *AGENT, "probe", V4.format(2), "--key-file", str(key)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"vmflow agent probe: no answer from {V4.format(2)}:862: connection refused")
