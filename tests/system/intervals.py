"""Counts how often the intervals of `pair_metrics` hold what the VMs' own interfaces saw, and each alert that fires.

    python -m tests.system.intervals --seconds 900 sflow ipfix netflow sflow+ipfix

Nothing is wrong with the testbed's wire, so each alert about loss or absence is false.  For each kind of export there
is steady and bursty traffic by VXLAN, VLAN and within a hypervisor, IPv4 and IPv6; meanwhile Open vSwitch is restarted,
the store's disk is full for a while, the export is cleared and created again, the service is killed, a VM moves to the
other hypervisor, one gets another name and one is deleted.  The store is kept from kind to kind.  The truth is what
tcpdump saw at both ends, by the MAC addresses of the VMs, but for windows in which a VM moved, was renamed or deleted.
Prints a line for each measure; exit code 1 for a false word.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from tests.service import Service, running
from tests.system.test_live import inventory
from tests.system.testbed import Testbed, missing, until

WINDOW_SECONDS = {"10s": 10, "1m": 60}
TOLERANCE = 0.05
"""Of the truth: an interval that misses it by more is a false word."""
SAMPLED_MISSES = 0.07
"""Of the intervals of sampled windows that may miss: they are made to miss 5 %, and few windows were counted."""
EXPORTS = {
    "sflow": ("sflow", "sampling=8", "polling=2"),
    "ipfix": ("ipfix", "sampling=1", "cache_active_timeout=2", "output=false"),
    "netflow": ("netflow", "active_timeout=10"),
}
STEADY = (
    ("a2", "b2", "ip4", ("-u", "-b", "4M", "-l", "1200")),
    ("a1", "b1", "ip4", ("-b", "4M", "-M", "1350")),
    ("b2", "a1", "ip6", ("-b", "2M", "-M", "1330")),
    ("a3", "b3", "ip4", ("-b", "4M")),
    ("a1", "a2", "ip4", ("-b", "4M")),
)
"""Who sends to whom by iperf3 all the time."""
SHORT = (("ping",), ("dns",), ("http",), ("ping6",), ("frag",), ("--seconds", "2", "tcp6"), ("--seconds", "3", "udp"))
CLOSED_SECONDS = 120

MOVES, RENAMED, DELETED = "a3", "b2", "a2"
UNSURE_SECONDS = 5
"""Around a move, whose capture begins again, around a new name and a deletion."""
DISK_MIB = 2048
"""Of the store, in memory so that it can be filled."""
FULL_SECONDS = 20
BUFFER, BUFFER_BYTES = Path("/proc/sys/net/core/rmem_default"), 8 << 20
"""Of the sockets by which the switch reads the VMs' interfaces.  By default they lose what TCP sends at once, before
the switch and after tcpdump."""

Pair = tuple[str, str]


@dataclass
class Truth:
    """Packets by sender and receiver, and second, as they left one and reached the other."""

    sent: dict[Pair, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    received: dict[Pair, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, file: Path, vm: str, names: dict[bytes, str], ip4_only: bool) -> None:
        """Read what tcpdump wrote at the interface of `vm`."""
        data = file.read_bytes()
        at, end = 24, len(data)
        head = struct.Struct("<IIII")
        while at + 16 <= end:
            seconds, _, captured, _ = head.unpack_from(data, at)
            at += 16
            dst, src = names.get(data[at : at + 6]), names.get(data[at + 6 : at + 12])
            ip4 = data[at + 12 : at + 14] == b"\x08\x00"
            at += captured
            if dst is not None and src is not None and (ip4 or not ip4_only):
                (self.sent if src == vm else self.received)[src, dst][seconds] += 1

    def packets(self, which: str, pair: Pair, start: int, seconds: int) -> int:
        seen: dict[Pair, Counter[int]] = getattr(self, which)
        return sum(seen[pair][second] for second in range(start, start + seconds)) if pair in seen else 0


class Cloud:
    """The testbed with its VMs, captures and steady traffic."""

    def __init__(self, testbed: Testbed, directory: Path) -> None:
        self.testbed, self.directory = testbed, directory
        self.vms = {vm["vm"]: vm for vm in json.loads(testbed.run("inventory"))["vms"].values()}
        self.names = {bytes.fromhex(vm["mac"].replace(":", "")): name for name, vm in self.vms.items()}
        self.shown = {name: name for name in self.vms}
        """Name that vmflow gets -> name of the VM."""
        self.unsure: list[tuple[str, float]] = []
        """VM, and when something happened to it."""
        self._files: list[tuple[str, Path]] = []
        self._running: list[subprocess.Popen[bytes]] = []
        self.deleted: dict[str, float] = {}
        """VM -> when it was deleted."""
        self.tell_names()

    def start(self, vm: str, *command: str) -> None:
        """Run a command in the namespace of a VM until `stop`."""
        where = ["ip", "netns", "exec", f"{self.testbed.name}-{vm}", *command]
        self._running.append(subprocess.Popen(where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait()
        self._running.clear()

    @property
    def names_file(self) -> Path:
        return self.directory / "names.csv"

    def tell_names(self) -> None:
        """Write the names that vmflow is to show."""
        rows = [
            f"{self.vms[vm]['mac']},{name},{self.vms[vm]['ip4']}"
            for name, vm in self.latest().items()
            if vm not in self.deleted
        ]
        whole = self.directory / "names.new"
        whole.write_text("\n".join(["mac,vm,ips", *rows, ""]))
        whole.rename(self.names_file)

    def latest(self) -> dict[str, str]:
        """The last name of each VM."""
        last = {vm: name for name, vm in self.shown.items()}
        return {name: vm for vm, name in last.items()}

    def rename(self, vm: str) -> None:
        self.shown[f"{vm}-{len(self.shown)}"] = vm
        self.tell_names()
        self.unsure.append((vm, time.time()))

    def move(self, vm: str) -> None:
        """To the other hypervisor."""
        hosts = json.loads(self.testbed.run("inventory"))["vms"]
        here = next(one["host"] for one in hosts.values() if one["vm"] == vm)
        self.unsure.append((vm, time.time()))
        self.testbed.run("migrate", vm, "b" if here.endswith("a") else "a")
        self.capture(vm)
        self.unsure.append((vm, time.time()))

    def delete(self, vm: str) -> None:
        """Take a VM out of the switch and the inventory."""
        self.deleted[vm] = time.time()
        self.switch(vm, "del-port", "br-int", self.vms[vm]["port"])
        self.tell_names()

    def create_deleted(self) -> None:
        """Bring the deleted VMs back as they were."""
        for vm in self.deleted:
            port, tag, mac, uuid = (self.vms[vm][name] for name in ("port", "tag", "mac", "uuid"))
            ids = {"attached-mac": mac, "vm-id": uuid, "iface-status": "active"}
            texts = [f'external_ids:{name}="{text}"' for name, text in ids.items()]
            self.switch(vm, "add-port", "br-int", port, f"tag={tag}", "--", "set", "interface", port, *texts)
            self.unsure.append((vm, time.time()))
        self.deleted.clear()
        self.tell_names()

    def switch(self, vm: str, *command: str) -> None:
        """Run ovs-vsctl on the hypervisor where a VM was made."""
        database = self.testbed.ovsdb(self.vms[vm]["host"][-1])
        subprocess.run(["ovs-vsctl", f"--db={database}", *command], check=True, timeout=30)

    def full_disk(self) -> None:
        """Leave the store no room for a while."""
        fill = self.directory / "disk" / "fill"
        with contextlib.suppress(OSError), fill.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        time.sleep(FULL_SECONDS)
        fill.unlink()

    def capture(self, *vms: str) -> None:
        """Begin to write what the interface of each of these VMs sees."""
        for vm in vms:
            file = self.directory / f"{vm}-{len(self._files)}.pcap"
            self._files.append((vm, file))
            self.start(vm, "tcpdump", "-i", "eth0", "-s", "64", "-B", "8192", "-w", str(file))

    def truth(self, ip4_only: bool) -> Truth:
        """What the captures since the last call hold."""
        truth = Truth()
        for vm, file in self._files:
            truth.add(file, vm, self.names, ip4_only)
            file.unlink()
        self._files.clear()
        return truth

    def sure(self, pair: Pair, start: int, seconds: int) -> bool:
        """True if nothing happened to either VM in a window."""
        if any(vm in self.deleted and start + seconds + UNSURE_SECONDS > self.deleted[vm] for vm in pair):
            return False
        near = (at for vm, at in self.unsure if vm in pair)
        return not any(start - UNSURE_SECONDS <= at <= start + seconds + UNSURE_SECONDS for at in near)

    def traffic(self, seconds: float) -> None:
        """Begin the steady flows."""
        for port, (_, dst, _, _) in enumerate(STEADY, 6001):
            self.start(dst, "iperf3", "-s", "-p", str(port))
        time.sleep(1)
        for port, (src, dst, address, options) in enumerate(STEADY, 6001):
            target = self.vms[dst][address]
            self.start(src, "iperf3", "-c", target, "-p", str(port), "-t", str(round(seconds)), *options)

    def bursts(self, until_: float) -> None:
        """Short flows now and then, one kind after another."""
        chosen = random.Random(7)
        while time.time() < until_:
            with contextlib.suppress(AssertionError):  # Open vSwitch restarts
                self.testbed.run("traffic", *chosen.choice(SHORT))
            time.sleep(chosen.uniform(0, 8))


@contextlib.contextmanager
def service(directory: Path, settings: list[str], address: str) -> Iterator[Service]:
    store = f"chdb://{directory}/disk/store"
    with running(directory, *settings, f'listen.addresses=["{address}"]', store=store) as started:
        yield started


def phase(cloud: Cloud, kind: str, seconds: int, start: Any, target: str, running_: Service) -> Service:
    """One kind of export, with what happens to it; returns the service that runs then."""
    testbed = cloud.testbed
    exports = [EXPORTS[part] for part in kind.split("+")]
    cloud.create_deleted()
    cloud.capture(*cloud.vms)
    for name, *options in exports:
        testbed.run(f"export-{name}", target, *options)
    began = time.time()
    cloud.traffic(seconds)
    bursts = threading.Thread(target=cloud.bursts, args=(began + seconds - 15,))
    bursts.start()

    def wait(share: float) -> None:
        time.sleep(max(0.0, began + share * seconds - time.time()))

    wait(0.25)
    testbed.run("restart", "a")
    wait(0.35)
    cloud.full_disk()
    wait(0.45)
    for name, *options in exports:
        testbed.run("export-off", name)
        testbed.run(f"export-{name}", target, *options)
    wait(0.6)
    running_.stop(signal.SIGKILL)
    time.sleep(3)
    running_ = start()
    wait(0.7)
    cloud.move(MOVES)
    wait(0.85)
    cloud.rename(RENAMED)
    wait(0.92)
    cloud.delete(DELETED)
    wait(1)
    bursts.join()
    time.sleep(3)
    cloud.stop()
    ended = time.time()
    until(lambda: running_.metric("vmflow_windows_watermark_seconds") > ended, CLOSED_SECONDS)
    time.sleep(5)
    testbed.run("export-off")
    return running_


def judge(cloud: Cloud, running_: Service, truth: Truth, kind: str, began: float, ended: float) -> int:
    """Print how often intervals held the truth; returns how many words were false."""
    false = 0
    for level, length in WINDOW_SECONDS.items():
        first, last = int(-(-began // length) * length), int(ended // length * length)
        rows = running_.query(
            "SELECT toUnixTimestamp(time) AS start, src_vm, dst_vm, counted_at, packets_per_second AS rate, "
            "packets_per_second_low AS low, packets_per_second_high AS high, loss_ratio, loss_low, loss_high, "
            f"loss_evidence, watched_seconds, sampling_rate FROM pair_metrics{'' if level == '10s' else '_' + level} "
            f"WHERE time >= fromUnixTimestamp({first}) AND time < fromUnixTimestamp({last}) "
            "AND src_vm != '' AND dst_vm != ''"
        )
        held: dict[str, Counter[str]] = defaultdict(Counter)
        misplaced: list[float] = []
        for row in rows:
            pair, start = (cloud.shown[row["src_vm"]], cloud.shown[row["dst_vm"]]), int(row["start"])
            if not cloud.sure(pair, start, length):
                continue
            sent, received = (truth.packets(which, pair, start, length) for which in ("sent", "received"))
            there = (received if row["counted_at"] == "destination" else sent) / length
            words = []
            if row["rate"] is not None:
                words.append((f"rate 1:{row['sampling_rate']}", there, row["low"], row["high"], TOLERANCE * there))
                if row["sampling_rate"] == 1 and there:
                    misplaced.append(abs(row["rate"] / there - 1) * length)
            if row["loss_ratio"] is not None and sent:
                lost = max(0.0, 1 - received / sent)
                words.append((f"loss {row['loss_evidence']}", lost, row["loss_low"], row["loss_high"], TOLERANCE))
            if not words:
                held["nothing said"][row["loss_evidence"]] += 1
            for word, true, low, high, slack in words:
                held[word]["all"] += 1
                held[word]["held"] += low <= true <= high
                if not low - slack <= true <= high + slack:
                    held[word]["false"] += 1
                    print(f"  missed {level} {word} {pair} at {start}: {true:.4g} not in [{low:.4g}, {high:.4g}] {row}")
        if misplaced:
            parts = quantiles(misplaced, n=100)
            print(f"{kind:12} {level:4} exact counts off by {parts[49]:.2f} s (median), {parts[94]:.2f} s (95 %)")
        for word, counts in sorted(held.items()):
            print(f"{kind:12} {level:4} {word:16} {dict(counts)}", flush=True)
            # Of sampled windows, one in twenty may miss by chance.
            allowed = SAMPLED_MISSES * counts["all"] if "1:" in word and word[-3:] != "1:1" else 0
            false += max(0, counts["false"] - round(allowed))
    alerts = running_.query(
        "SELECT *, toString(time) AS time FROM alert_events WHERE event = 'firing' "
        f"AND alert_events.time >= fromUnixTimestamp64Micro({round(began * 1e6)})"
    )
    for alert in alerts:
        print(f"  ALERT {kind} { ({name: value for name, value in alert.items() if value}) }")
    return false + sum("loss" in str(alert["rule"]) or "absent" in str(alert["rule"]) for alert in alerts)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.intervals", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--seconds", type=int, default=900, help="for each kind of export")
    parser.add_argument("--port", type=int, default=6399)
    parser.add_argument("kinds", nargs="*", default=["sflow", "ipfix", "netflow", "sflow+ipfix"])
    args = parser.parse_args()
    if reason := missing():
        sys.exit(f"{parser.prog}: {reason}")
    testbed, address, false = Testbed("intervals"), f"127.0.0.1:{args.port}", 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as up:
        directory = Path(name)
        (directory / "disk").mkdir()
        disk = str(directory / "disk")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "vmflow-intervals", disk], check=True)
        up.callback(subprocess.run, ["umount", "--lazy", disk], check=True)
        up.callback(BUFFER.write_text, BUFFER.read_text())
        BUFFER.write_text(str(BUFFER_BYTES))
        up.callback(testbed.run, "down")
        testbed.run("up")
        cloud = Cloud(testbed, directory)
        up.callback(cloud.stop)
        settings = [
            *inventory(testbed),
            f"inventory.static={json.dumps([{'file': str(cloud.names_file)}])}",
            'decode.exporters=[{"network": "127.0.1.0/24", "protocol": "ipfix", "sampling_rate": 1}]',
        ]

        def start() -> Service:
            return up.enter_context(service(directory, settings, address))

        running_ = start()
        for kind in args.kinds:
            began = time.time()
            running_ = phase(cloud, kind, args.seconds, start, address, running_)
            ended = time.time() - 10
            truth = cloud.truth(ip4_only=kind == "netflow")  # v5 knows no other
            false += judge(cloud, running_, truth, kind, began, ended)
        running_.stop()
    print(f"{false} false words")
    return 1 if false else 0


if __name__ == "__main__":
    sys.exit(main())
