"""`vmflow mirror` on both sides of a router that loses packets and counts them, and iperf3's own TCP.

client ── mirror before ── router, drops 1 in 100 ── mirror behind ── server
"""

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
from pathlib import Path
from typing import Any

import pytest

from decoders.mirror.results import WAYS
from tests.service import ROOT
from tests.system.testbed import until

pytestmark = pytest.mark.system

CLIENT, ROUTER, SERVER = "vmfm-client", "vmfm-router", "vmfm-server"
BEFORE, BEHIND = "before", "behind"
"""The router's interfaces."""
STREAMS, OCTETS = 4, os.environ.get("VMFLOW_MIRROR_OCTETS", "15M")
DROP = "-p tcp -m tcp --dport 5201 -m statistic --mode random --probability 0.01 -j DROP"


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def within(space: str, command: str) -> str:
    return run("ip", "netns", "exec", space, *command.split())


@pytest.fixture
def router() -> Iterator[None]:
    """Three namespaces in a row; what one sends is in packets as small as the other gets them."""
    programs = {"ip": "iproute2", "iptables": "iptables", "iperf3": "iperf3", "ethtool": "ethtool"}
    absent = sorted(package for program, package in programs.items() if shutil.which(program) is None)
    if os.geteuid() != 0 or absent:
        pytest.skip(f"needs root, and the Debian packages {' '.join(absent) or 'that it has'}")
    try:
        for space in (CLIENT, ROUTER, SERVER):
            run("ip", "netns", "add", space)
            within(space, "sysctl -qw net.ipv4.ip_forward=1")
            within(space, "ip link set lo up")
        for number, (space, side) in enumerate(((CLIENT, BEFORE), (SERVER, BEHIND)), 1):
            within(ROUTER, f"ip link add {side} type veth peer name eth0 netns {space}")
            for where, name, host in ((ROUTER, side, 1), (space, "eth0", 2)):
                within(where, f"ip address add 10.77.{number}.{host}/24 dev {name}")
                within(where, f"ethtool -K {name} tso off gso off gro off tx off rx off")
                within(where, f"ip link set {name} up")
            within(space, f"ip route add default via 10.77.{number}.1")
        within(ROUTER, f"iptables -A FORWARD {DROP}")
        yield
    finally:
        for space in (CLIENT, ROUTER, SERVER):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def listening(number: str) -> int:
    """Packet sockets at an interface of the router."""
    lines = within(ROUTER, "cat /proc/net/packet").splitlines()[1:]
    return sum(line.split()[4] == number and line.split()[3] == "0003" for line in lines)


class Mirror:
    """`vmflow mirror` at an interface of the router; with VMFLOW_MIRROR_KEEP=DIR, tcpdump there, too."""

    def __init__(self, side: str) -> None:
        inside = ["ip", "netns", "exec", ROUTER]
        options = ["--outgoing", "--by", "connection", "--window", "0", "--format", "json"]
        command = [*inside, sys.executable, "-m", "collector", "mirror", "--interface", side, *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        self._dump = None
        if keep := os.environ.get("VMFLOW_MIRROR_KEEP"):
            file = str(Path(keep) / f"mirror_{side}.pcap")
            self._dump = subprocess.Popen([*inside, "tcpdump", "-ni", side, "-s", "80", "-B", "32768", "-w", file])
        number = within(ROUTER, f"cat /sys/class/net/{side}/ifindex").strip()
        listeners = 1 if self._dump is None else 2
        until(lambda: listening(number) == listeners, 120)

    def stop(self) -> tuple[list[dict[str, Any]], str]:
        """Rows of the data streams, and the summary."""
        if self._dump is not None:
            self._dump.send_signal(signal.SIGINT)
            self._dump.wait(30)
        self._process.send_signal(signal.SIGINT)
        out, err = self._process.communicate(timeout=60)
        rows = [json.loads(line) for line in out.splitlines()]
        return [row for row in rows if row["dst_port"] == 5201 and row["data_octets_to_server"] > 100_000], err


def test_losses_are_placed_on_their_side_of_the_mirror(router: None) -> None:
    """Before the router each loss is a retransmission, as iperf3's TCP has them; behind it, it is lost before."""
    before, behind = Mirror(BEFORE), Mirror(BEHIND)
    time.sleep(1)
    server = subprocess.Popen(["ip", "netns", "exec", SERVER, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    until(lambda: "5201" in within(SERVER, "ss -Hltn"))
    done = json.loads(within(CLIENT, f"iperf3 -J -c 10.77.2.2 -P {STREAMS} -n {OCTETS}"))
    server.wait(30)
    time.sleep(1)
    (near, near_summary), (far, far_summary) = before.stop(), behind.stop()
    found = re.search(r"^\s*(\d+)\s+\d+ DROP", within(ROUTER, "iptables -nvxL FORWARD"), re.MULTILINE)
    assert found is not None
    truth = {"dropped": int(found[1]), "retransmits": done["end"]["sum_sent"]["retransmits"]}
    if keep := os.environ.get("VMFLOW_MIRROR_KEEP"):
        (Path(keep) / "mirror.truth.json").write_text(json.dumps(truth))

    def total(rows: list[dict[str, Any]], name: str) -> int:
        return sum(row[f"{name}_to_server"] for row in rows)

    print(truth, {name: (total(near, name), total(far, name)) for name in NAMES}, near_summary, far_summary)
    assert len(near) == len(far) == STREAMS
    assert all("not received: 0 packets" in one for one in (near_summary, far_summary))
    assert sum(row[f"capture_gap_octets_{way}"] for row in (*near, *far) for way in WAYS) == 0
    assert total(near, "lost_before_segments") == 0
    assert total(near, "retransmitted_segments") == truth["retransmits"]
    assert total(near, "packets") - total(far, "packets") <= truth["dropped"]
    assert total(far, "lost_before_segments") >= 0.98 * (total(near, "packets") - total(far, "packets"))


NAMES = ("packets", "retransmitted_segments", "spurious_segments", "lost_before_segments", "reordered_segments")
