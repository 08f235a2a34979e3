"""Signals while datagrams pour in: a reload loses none of them, and a stop none that came before it."""

from __future__ import annotations

import signal
import socket
import struct
import threading
import time
from pathlib import Path

from tests.service import Service, running

PAUSE_SECONDS = 0.0005
NUMBERED = "SELECT toUInt32(src_port) + 65536 * dst_port AS number FROM flows"


def datagram(number: int) -> bytes:
    """NetFlow v5 with one record, whose ports hold the number."""
    header = struct.pack(">HHIIIIBBH", 5, 1, 1000, int(time.time()), 0, number, 0, 0, 0)
    addresses = struct.pack(">4s4s4sHH", bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), bytes(4), 1, 2)
    counts = struct.pack(">IIII", 1, 100, 900, 950)
    return header + addresses + counts + struct.pack(">HHBBBBHHBBH", number & 0xFFFF, number >> 16, 0, 0, 17, *[0] * 6)


class Sender(threading.Thread):
    """Sends numbered datagrams until it is stopped."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        host, port = service.udp[0].rsplit(":", 1)
        self._target = (host, int(port))
        self._stopping = threading.Event()
        self.sent = 0

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
            while not self._stopping.is_set():
                exporter.sendto(datagram(self.sent), self._target)
                self.sent += 1
                time.sleep(PAUSE_SECONDS)

    def stop(self) -> int:
        self._stopping.set()
        self.join()
        return self.sent


def numbers(service: Service) -> list[int]:
    return sorted(int(row["number"]) for row in service.query(NUMBERED))


def reloaded(service: Service, times: int) -> None:
    """Wait until the settings were reloaded so often."""
    deadline = time.monotonic() + 30
    while sum(line.get("event") == "settings reloaded" for line in service.log) < times:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_reloads_lose_nothing_and_a_stop_nothing_that_came_before(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        sender = Sender(service)
        sender.start()
        for number in range(5):
            time.sleep(0.3)
            service.process.send_signal(signal.SIGHUP)
            reloaded(service, number + 1)
        sent = sender.stop()
        assert service.wait_for_rows("SELECT count() AS n FROM flows", sent) == sent
        assert numbers(service) == list(range(sent))

        sender = Sender(service)
        sender.sent = sent
        sender.start()
        time.sleep(0.5)
        before = sender.sent
        assert service.stop(signal.SIGTERM) == 0
        sender.stop()
    with running(tmp_path) as again:
        found = numbers(again)
        assert again.stop() == 0
    assert before - sent > 100
    # What the kernel held at the stop is stored, too; what came later went to nobody.
    assert len(found) >= before
    assert found == list(range(len(found)))
