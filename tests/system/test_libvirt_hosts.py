"""The libvirt source while guests move between two real hypervisors, and while their libvirtd hangs or dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from collector.inventory.sources.base import Interface, Report, SourceError
from collector.inventory.sources.libvirt import Libvirt
from tests.system.guests import HOST, LONG, TESTBED, new_source, restart_if_gone, uri, virsh, vm

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("guests")]


class Watch:
    """Reads a source after each event, on a thread of its own, and keeps when each read was and if it had the guest."""

    def __init__(self, host: str) -> None:
        self.source = new_source(host)
        self.reads: list[tuple[int, int, bool, Interface | None, int]] = []
        self._stop = threading.Event()
        self._read()

    def _read(self) -> None:
        began = time.time_ns() // 1_000
        report = self.source.read()
        found = next((interface for interface in report.interfaces if interface.vm == "guest-a"), None)
        self.reads.append((began, time.time_ns() // 1_000, found is not None, found, report.changed_us))

    def run(self) -> None:
        while not self._stop.is_set():
            self.source.wait(0.02)
            self._read()

    def stop(self) -> None:
        self._stop.set()
        self.source.interrupt()


def event_times(text: str) -> dict[str, int]:
    """Lifecycle event -> when it came (µs since 1970), from `virsh event --timestamp`."""
    lines = re.findall(r"^(\S+ \S+): event 'lifecycle' for domain 'guest-a': (.+)$", text, re.MULTILINE)
    return {event: int(datetime.fromisoformat(when).timestamp() * 1e6) for when, event in lines}


def test_a_migrated_guest_is_never_stated_by_both_hosts() -> None:
    listener = subprocess.Popen(
        ["virsh", "-q", "-c", uri("b"), "event", "--loop", "--all", "--timestamp"], stdout=subprocess.PIPE, text=True
    )
    time.sleep(1)  # until it listens
    left, right = Watch("a"), Watch("b")
    (_, _, there, before, _), (_, _, not_there, _, _) = left.reads[0], right.reads[0]
    assert (there, not_there) == (True, False)
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(watch.run) for watch in (left, right)]
        try:
            migrate("a", "b", "198.51.100.12")
            until = time.monotonic() + LONG
            # A read may find the guest before the event comes that tells of it: that one has no time yet.
            while not any(read[2] and read[4] for read in right.reads) and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            left.stop()
            right.stop()
        for done in running:
            done.result()
    listener.send_signal(signal.SIGINT)
    events = event_times(listener.communicate(timeout=LONG)[0])
    for watch in (left, right):
        watch.source.close()
    migrate("b", "a", "198.51.100.11")

    resumed_us = events["Resumed Migrated"] - 1_000  # virsh cuts its times to ms
    arrived = next(read for read in right.reads if read[2])
    assert not any(stated for began, _, stated, _, _ in left.reads if began >= arrived[1])
    assert not left.reads[-1][2]
    assert any(events["Started Migrated"] <= read[0] < arrived[0] for read in right.reads), "nobody read meanwhile"
    assert arrived[1] >= resumed_us
    assert any(read[4] >= resumed_us for read in right.reads), "no report has the time of the event"
    after = arrived[3]
    assert before is not None
    assert after is not None
    assert (after.mac, after.vm_uuid, after.port_id) == (before.mac, before.vm_uuid, before.port_id)
    assert after.host == "host-b"


def migrate(source_host: str, target_host: str, address: str) -> None:
    virsh(
        source_host, "migrate", "--live", "--unsafe", "guest-a",
        "--desturi", uri(target_host), "--migrateuri", f"tcp://{address}",
    )  # fmt: skip


def daemon_pid(host: str) -> int:
    """The libvirtd of a hypervisor, which the testbed started."""
    pid = int((TESTBED.state / "pids" / f"libvirtd-{host}").read_text().split()[0])
    assert Path(f"/proc/{pid}/comm").read_text().strip() == "libvirtd"
    return pid


def recovered(made: Libvirt) -> Report:
    """The next good report."""
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        with suppress(SourceError):
            return made.read()
        time.sleep(0.2)
    raise AssertionError("the source does not recover")


def test_a_daemon_that_hangs_ends_the_call_and_is_found_again() -> None:
    made = new_source(HOST, deadline_seconds=4)
    expected = made.read().interfaces
    pid = daemon_pid(HOST)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(SourceError):
            made.read()
        with ThreadPoolExecutor(1) as threads:
            hanging = threads.submit(made.read)  # connecting has no end while the daemon hangs
            time.sleep(0.5)
            with pytest.raises(SourceError, match="earlier call"):
                made.read()
            os.kill(pid, signal.SIGCONT)
            with suppress(SourceError):
                assert hanging.result(timeout=LONG).interfaces == expected
    finally:
        os.kill(pid, signal.SIGCONT)

    restart_if_gone(HOST, pid)
    assert recovered(made).interfaces == expected
    made.close()


def test_a_daemon_killed_and_started_again() -> None:
    made = new_source(HOST)
    expected = made.read().interfaces
    os.kill(daemon_pid(HOST), signal.SIGKILL)

    assert made.wait(LONG)  # the loss of the connection is an event
    with pytest.raises(SourceError):
        made.read()

    (TESTBED.state / "pids" / f"libvirtd-{HOST}").unlink()  # a dead child that nobody waits for still looks alive
    vm("up")
    assert recovered(made).interfaces == expected
    assert_hears_events(made, HOST)
    made.close()


def assert_hears_events(made: Libvirt, host: str) -> None:
    virsh(host, "suspend", "guest-a")
    assert made.wait(LONG)
    virsh(host, "resume", "guest-a")
