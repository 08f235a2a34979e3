"""Replay over real UDP sockets: what arrives is what the capture holds, in order, from a sender for each exporter."""

from __future__ import annotations

import argparse
import asyncio
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace, TracebackType

import pytest

from collector.capture import replay as replay_module
from collector.capture import sendmmsg
from collector.capture.read import CaptureError, CaptureProblems, read_capture
from collector.capture.replay import Recording, ReplaySummary, replay
from collector.capture.senders import (
    LoopbackAddresses,
    Pool,
    SendError,
    Senders,
    Target,
    TargetError,
    parse_target,
    resolve,
)
from collector.commands.replay import add_arguments, run

PCAPS = Path(__file__).parents[2] / "fixtures" / "pcaps"
TWO_EXPORTERS = PCAPS / "ovs_netflow5_two_bridges.pcap"
FLAT_OUT = {"speed": None}
PACES = [FLAT_OUT, {"rate": 5000.0}, {"rate": 100_000.0}, {"speed": 1e6}]
"""Small captures sent flat out fit into the receive buffer that any system grants."""
SECONDS = 20
"""How long a test waits for what must come."""


class Receiver:
    """A UDP socket that a thread empties."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        # A thread of a busy test run may be late: what was sent must not be lost for that.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((host, port))
        self.host, self.port = self.socket.getsockname()[:2]
        self.got: list[tuple[tuple[str, int], bytes]] = []
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while True:
            payload, address = self.socket.recvfrom(65_535)
            if payload == b"the end" and address[:2] == self._end:
                return
            self.got.append((address[:2], payload))

    def __enter__(self) -> Receiver:
        self._closer = socket.socket(self.socket.family, socket.SOCK_DGRAM)
        self._closer.bind((self.host, 0))
        self._end = self._closer.getsockname()[:2]
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Datagrams over loopback keep their order: all that was sent is in when this one is."""
        self._closer.sendto(b"the end", self.socket.getsockname())
        self._thread.join(SECONDS)
        self._closer.close()
        self.socket.close()
        assert not self._thread.is_alive()

    def by_sender(self) -> dict[tuple[str, int], list[bytes]]:
        found = defaultdict(list)
        for sender, payload in self.got:
            found[sender].append(payload)
        return dict(found)


def by_exporter(*files: Path) -> dict[tuple[str, int], list[bytes]]:
    found = defaultdict(list)
    for file in files:
        for datagram in read_capture(file):
            found[datagram.source, datagram.source_port].append(datagram.payload)
    return dict(found)


def on_loopback(exporters: dict[tuple[str, int], list[bytes]]) -> dict[tuple[str, int], list[bytes]]:
    """192.0.2.11 as 127.1.2.11, with the original source port."""
    return {("127.1." + address.split(".", 2)[2], port): sent for (address, port), sent in exporters.items()}


def capture_of(path: Path, *datagrams: tuple[int, str, int, int, bytes]) -> Path:
    """A raw-IP capture of (time in µs, IPv4 or IPv6 source, source port, destination port, payload)."""
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 101)
    for time_us, source, source_port, destination_port, payload in datagrams:
        udp = struct.pack(">HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
        if ":" in source:
            head = (
                struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + socket.inet_pton(socket.AF_INET6, source) + bytes(16)
            )
        else:
            head = struct.pack(">BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, 17, 0) + socket.inet_aton(source) + bytes(4)
        frame = head + udp
        out += struct.pack("<IIII", *divmod(time_us, 1_000_000), len(frame), len(frame)) + frame
    path.write_bytes(out)
    return path


@pytest.mark.parametrize("pace", PACES, ids=str)
def test_each_exporter_sends_what_it_sent_from_its_own_loopback_address(pace: dict[str, float]) -> None:
    with Receiver() as receiver:
        summary = asyncio.run(replay([TWO_EXPORTERS], receiver.host, receiver.port, **pace))

    expected = by_exporter(TWO_EXPORTERS)
    assert len(expected) == 4
    assert receiver.by_sender() == on_loopback(expected)
    assert summary.datagrams == 20
    assert summary.octets == sum(len(payload) for sent in expected.values() for payload in sent)
    assert summary.exporters == 4
    assert summary.problems == CaptureProblems(frames=20, datagrams=20)


@pytest.mark.parametrize("pace", PACES, ids=str)
def test_over_ipv6_each_exporter_has_a_port_of_its_own(pace: dict[str, float]) -> None:
    with Receiver("::1") as receiver:
        asyncio.run(replay([TWO_EXPORTERS], "::1", receiver.port, **pace))

    found = receiver.by_sender()
    assert {address for address, _ in found} == {"::1"}
    assert sorted(found.values()) == sorted(by_exporter(TWO_EXPORTERS).values())


def test_all_captures_arrive_whole() -> None:
    """Hundreds of datagrams at a rate, so that the receive buffer need not be large."""
    files = sorted(PCAPS.glob("*.pcap"))
    with Receiver() as receiver:
        summary = asyncio.run(replay(files, receiver.host, receiver.port, rate=4000))

    assert receiver.by_sender() == on_loopback(by_exporter(*files))
    assert summary.datagrams == len(receiver.got)


def test_without_sendmmsg_the_same_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sendmmsg._sendmmsg is not None or not sys.platform.startswith("linux")
    monkeypatch.setattr(sendmmsg, "_sendmmsg", None)
    with Receiver() as receiver:
        asyncio.run(replay([TWO_EXPORTERS], receiver.host, receiver.port, speed=None))

    assert receiver.by_sender() == on_loopback(by_exporter(TWO_EXPORTERS))


@pytest.mark.skipif(sendmmsg._sendmmsg is None, reason="needs sendmmsg: 64-bit Linux")
def test_a_batch_sends_what_its_bytes_hold_now() -> None:
    """`bench.load` lets sequence numbers go on in place."""
    with Receiver() as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((receiver.host, receiver.port))
        batch = sendmmsg.Batch([b"aa", b"", b"bcd", b"e"])
        assert batch.send(sender) == 4
        batch.octets[[0, 5]] = ord("x"), ord("y")
        assert batch.send(sender) == 4

    (got,) = receiver.by_sender().values()
    assert got == [b"aa", b"", b"bcd", b"e", b"xa", b"", b"bcd", b"y"]


@pytest.mark.parametrize("kept", [True, False])
def test_rounds_repeat_everything(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the capture stays in memory or is read again; problems are those of one round."""
    if not kept:
        monkeypatch.setattr("collector.capture.replay.KEEP_BYTES", 100)
    reports: list[tuple[int, int | None]] = []
    with Receiver() as receiver:
        summary = asyncio.run(
            replay(
                [TWO_EXPORTERS],
                receiver.host,
                receiver.port,
                speed=None,
                loops=3,
                report=lambda sent, total: reports.append((sent, total)),
            )
        )

    assert receiver.by_sender() == {key: sent * 3 for key, sent in on_loopback(by_exporter(TWO_EXPORTERS)).items()}
    assert summary.datagrams == 60
    assert summary.problems.frames == 20
    assert reports[-1] == (60, 60 if kept else None)


def test_an_endless_loop_over_nothing_ends(tmp_path: Path) -> None:
    empty = capture_of(tmp_path / "empty.pcap")

    assert asyncio.run(replay([empty], "127.0.0.1", 9, loops=0)).datagrams == 0


def test_host_alone_keeps_the_destination_ports(tmp_path: Path) -> None:
    with Receiver() as one, Receiver() as two, Receiver() as closed:
        pass
    with Receiver(port=one.port) as one, Receiver(port=two.port) as two:
        ports = (one.port, two.port, closed.port, two.port, one.port)
        rows = [(at, "192.0.2.9", 5000, port, b"%d" % at) for at, port in enumerate(ports)]
        file = capture_of(tmp_path / "ports.pcap", *rows)
        summary = asyncio.run(replay([file], "127.0.0.1", speed=None))
        paced = asyncio.run(replay([file], "127.0.0.1", speed=1000.0))

    assert [payload for _, payload in one.got] == [b"0", b"4"] * 2
    assert [payload for _, payload in two.got] == [b"1", b"3"] * 2
    assert {address for (address, _), _ in one.got + two.got} == {"127.1.2.9"}
    assert (summary.datagrams, summary.refused, summary.exporters) == (5, 1, 1)
    assert (paced.datagrams, paced.refused) == (5, 1)


@pytest.mark.parametrize("pace", PACES, ids=str)
def test_unsendable_and_empty_datagrams(pace: dict[str, float], tmp_path: Path) -> None:
    """65,527 octets fit IPv6 but not IPv4; no octets at all are a datagram too."""
    rows = [(0, "2001:db8::1", 5000, 1, payload) for payload in (b"before", bytes(65_527), b"", *[b"after"] * 4)]
    file = capture_of(tmp_path / "sizes.pcap", *rows)
    with Receiver() as receiver:
        summary = asyncio.run(replay([file], receiver.host, receiver.port, **pace))

    assert [payload for _, payload in receiver.got] == [b"before", b"", *[b"after"] * 4]
    assert (summary.datagrams, summary.unsendable, summary.octets) == (6, 1, 26)
    assert "skipped: 1 unsendable" in str(summary)


@pytest.mark.parametrize("pace", PACES, ids=str)
def test_a_closed_port_is_an_error(pace: dict[str, float]) -> None:
    with Receiver() as receiver:
        pass
    with pytest.raises(SendError, match=f"nothing listens on UDP 127.0.0.1:{receiver.port}"):
        asyncio.run(replay([TWO_EXPORTERS], receiver.host, receiver.port, **pace))


class Clock:
    """A clock that only goes on while one sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def sent_at(monkeypatch: pytest.MonkeyPatch, files: list[Path], receiver: Receiver, **pace: float) -> list[float]:
    """When each datagram was sent, in seconds from the start."""
    clock, times = Clock(), []
    monkeypatch.setattr(replay_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(replay_module, "asyncio", SimpleNamespace(sleep=clock.sleep))
    original = replay_module._Replay._send_one

    async def noted(self: replay_module._Replay, stream: replay._Stream, payload: bytes) -> None:
        times.append(round(clock.now - 100, 6))
        await original(self, stream, payload)

    monkeypatch.setattr(replay_module._Replay, "_send_one", noted)
    asyncio.run(replay(files, receiver.host, receiver.port, **pace))
    return times


def test_the_pace_is_that_of_the_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps back in time cost none; files and rounds follow one another at once."""
    seconds = (10.0, 10.5, 10.25, 10.5, 13.0)
    one = capture_of(tmp_path / "1.pcap", *[(int(at * 1e6), "192.0.2.1", 5000, 1, b"a") for at in seconds])
    two = capture_of(tmp_path / "2.pcap", *[(int(at * 1e6), "192.0.2.1", 5000, 1, b"b") for at in (5, 6)])
    with Receiver() as receiver:
        times = sent_at(monkeypatch, [one, two], receiver, speed=2.0, loops=2)

    assert times[:7] == [0, 0.25, 0.25, 0.25, 1.5, 1.5, 2.0]
    assert times[7:] == [2.0 + at for at in times[:7]]


def test_a_pipe_is_sent_as_it_flows(tmp_path: Path) -> None:
    file = capture_of(tmp_path / "a.pcap", (0, "192.0.2.1", 5000, 1, b"first"), (1, "192.0.2.1", 5000, 1, b"second"))
    octets = file.read_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(SECONDS)
        for speed in ("max", "1"):
            command = [*COMMAND, "-", "--speed", speed, "--to", f"127.0.0.1:{receiver.getsockname()[1]}"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False) as process:
                assert process.stdin is not None
                process.stdin.write(octets[: 24 + (len(octets) - 24) // 2])
                process.stdin.flush()
                assert receiver.recv(100) == b"first"
                out, _ = process.communicate(octets[24 + (len(octets) - 24) // 2 :], timeout=SECONDS)
            assert receiver.recv(100) == b"second"
            assert out.startswith(b"sent 2 datagrams, 11 octets, of 1 exporters in ")


COMMAND = [
    sys.executable,
    "-c",
    "import argparse, sys; from collector.commands.replay import add_arguments, run;"
    "parser = argparse.ArgumentParser('replay');"
    "add_arguments(parser); sys.exit(run(parser.parse_args()))",
]


def command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_command_prints_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with Receiver() as receiver:
        code = command(TWO_EXPORTERS, "--to", f"localhost:{receiver.port}", "--speed", "max", "--loop", 2)
    out, err = capsys.readouterr()

    assert code == 0
    assert out.startswith("sent 40 datagrams, 5,088 octets, of 4 exporters in ")
    assert out.endswith("; skipped: none\n")
    assert err == ""
    assert len(receiver.got) == 40


@pytest.mark.parametrize(
    ("file", "target", "more", "message"),
    [
        ("missing.pcap", "127.0.0.1:9", [], "missing.pcap: cannot open: No such file or directory"),
        (".", "127.0.0.1:9", [], "cannot open: Is a directory"),
        (__file__, "127.0.0.1:9", [], "at offset 0: expected a pcap or pcapng file"),
        (TWO_EXPORTERS, "127.0.0.1:0", [], "expected a port from 1 to 65535 in the target, found '0'"),
        (TWO_EXPORTERS, "127.0.0.1:", [], "expected a port from 1 to 65535 in the target, found ''"),
        (TWO_EXPORTERS, "127.0.0.1:65536", [], "expected a port from 1 to 65535"),
        (TWO_EXPORTERS, "127.0.0.1:²", [], "expected a port from 1 to 65535"),
        (TWO_EXPORTERS, ":9", [], "expected HOST:PORT, [IPV6]:PORT or HOST as the target, found ':9'"),
        (TWO_EXPORTERS, "a:b:c", [], "expected HOST:PORT, [IPV6]:PORT or HOST as the target, found 'a:b:c'"),
        (TWO_EXPORTERS, "[::1", [], "expected HOST:PORT"),
        (TWO_EXPORTERS, "[::1]9", [], "expected HOST:PORT"),
        (TWO_EXPORTERS, "host.invalid:9", [], "cannot resolve 'host.invalid'"),
        (TWO_EXPORTERS, "." * 300 + ":9", [], "cannot resolve"),
        (TWO_EXPORTERS, "[::1]:9", ["--from-loopback"], "expected an IPv4 loopback target for --from-loopback"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    file: Path | str, target: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command(file, "--to", target, *more)
    out, err = capsys.readouterr()

    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("vmflow replay: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "wrong", [("--speed", "0"), ("--speed", "fast"), ("--rate", "nan"), ("--loop", "-1"), ("--loop", "x")]
)
def test_wrong_numbers_are_reported(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(TWO_EXPORTERS, "--to", "127.0.0.1:9", *wrong)

    assert caught.value.code == 2
    assert "expected a" in capsys.readouterr().err


def test_nobody_listening_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with Receiver() as receiver:
        pass
    code = command(TWO_EXPORTERS, "--to", f"127.0.0.1:{receiver.port}", "--speed", "max")
    out, err = capsys.readouterr()

    assert code == 1
    assert out.startswith("sent ")
    assert err == (
        f"vmflow replay: nothing listens on UDP 127.0.0.1:{receiver.port} (port unreachable); "
        "start the receiver first\n"
    )


def test_interrupt_prints_the_summary_and_exits_130() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(SECONDS)
        target = f"127.0.0.1:{receiver.getsockname()[1]}"
        arguments = [*COMMAND, str(TWO_EXPORTERS), "--to", target, "--rate", "50", "--loop", "0"]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            receiver.recv(65_535)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=SECONDS)

    assert process.returncode == 130
    assert out.startswith("sent ")
    assert err == "vmflow replay: interrupted\n"


def test_a_terminal_shows_a_progress_bar() -> None:
    mine, theirs = pty.openpty()
    with Receiver() as receiver:
        arguments = [*COMMAND, str(TWO_EXPORTERS), "--to", f"127.0.0.1:{receiver.port}", "--rate", "100"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
            os.close(theirs)
            shown = b""
            poll = select.poll()
            poll.register(mine, select.POLLIN)
            while poll.poll(SECONDS * 1000):
                try:
                    shown += os.read(mine, 65_536)
                except OSError:  # the other end is closed
                    break
            out, _ = process.communicate(timeout=SECONDS)
    os.close(mine)

    assert process.returncode == 0
    assert b"20/20" in shown
    assert out.startswith(b"sent 20 datagrams")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:6343", ("127.0.0.1", 6343)),
        ("collector.example:1", ("collector.example", 1)),
        ("collector.example", ("collector.example", None)),
        ("[::1]:65535", ("::1", 65_535)),
        ("[::1]", ("::1", None)),
        ("::1", ("::1", None)),
        ("fe80::1%lo", ("fe80::1%lo", None)),
    ],
)
def test_targets(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_target(text) == expected


def test_targets_print_as_they_are_written() -> None:
    assert str(resolve("::1", 5)) == "[::1]:5"
    assert str(resolve("127.0.0.1", None)) == "127.0.0.1"
    assert resolve("localhost", 5).is_loopback4


def test_loopback_addresses_are_distinct_and_repeatable() -> None:
    sources = [
        "192.0.2.11",
        "198.51.2.11",
        "203.0.2.11",
        "2001:db8::1",
        "2001:db8::2",
        "10.0.0.1",
        "127.0.0.1",
        "10.9.255.255",
    ]
    first, again = LoopbackAddresses("127.1.0.1"), LoopbackAddresses("127.1.0.1")
    found = [first.of(source) for source in sources]

    assert found[:3] == ["127.1.2.11", "127.2.2.11", "127.3.2.11"]
    assert found[5:] == ["127.2.0.1", "127.3.0.1", "127.1.255.255"]  # 127.1.0.1 is the target's
    assert len(set(found)) == len(sources)
    assert [again.of(source) for source in sources] == found
    assert [first.of(source) for source in sources] == found


def test_more_sources_than_second_bytes_stay_distinct() -> None:
    addresses = LoopbackAddresses("127.0.0.1")
    found = {addresses.of(f"{high}.{low}.2.11") for high in (10, 11) for low in range(256)}

    assert len(found) == 512
    assert all(address.startswith("127.") for address in found)


def test_forged_senders_do_not_open_sockets_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One datagram from each of 60 sources with room for four sockets; then from the first again."""
    sources = [f"10.0.{number}.1" for number in [*range(60), 0]]
    file = capture_of(tmp_path / "many.pcap", *[(0, source, 5000, 1, source.encode()) for source in sources])
    opened: list[socket.socket] = []
    most = 0

    def counted(self: Pool[socket.socket], key: object, item: socket.socket) -> socket.socket:
        nonlocal most
        opened.append(original(self, key, item))
        most = max(most, len(self.items()))
        return item

    original = Pool.put
    monkeypatch.setattr(Pool, "put", counted)
    monkeypatch.setattr(Pool.__init__, "__defaults__", (4,))
    with Receiver() as receiver:
        for pace in (FLAT_OUT, {"speed": 1000.0}):
            summary = asyncio.run(replay([file], receiver.host, receiver.port, **pace))
            assert summary.exporters == 60

    assert most == 4
    expected = {
        (f"127.1.{number}.1", 5000): [f"10.0.{number}.1".encode()] * (4 if number == 0 else 2) for number in range(60)
    }
    assert receiver.by_sender() == expected


def test_damage_within_a_file_sends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "damaged.pcap"
    file.write_bytes(TWO_EXPORTERS.read_bytes() + b"\xff" * 16)
    summary = ReplaySummary()
    with Receiver() as receiver, pytest.raises(CaptureError, match="expected a packet of at most"):
        asyncio.run(replay([TWO_EXPORTERS, file], receiver.host, receiver.port, summary=summary))

    assert receiver.got == []
    assert summary.datagrams == 0


def test_standard_input_too_large_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.capture.replay.KEEP_BYTES", 100)
    with TWO_EXPORTERS.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        with pytest.raises(TargetError, match="too large to be repeated"):
            asyncio.run(replay(["-"], "127.0.0.1", 9, loops=2))


def test_windows_do_not_cross_files() -> None:
    recording: Recording[int] = Recording([TWO_EXPORTERS, TWO_EXPORTERS], 8, len, CaptureProblems())

    assert recording.load()
    assert list(recording.round(0)) == [(True, 8), (False, 8), (False, 4)] * 2
    assert recording.total == 40


def test_a_taken_port_gives_way(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.1.2.11", 0))
        port = other.getsockname()[1]
        senders = Senders(Target(socket.AF_INET, ("127.0.0.1", 9), 9))
        with senders.open(("192.0.2.11", port, 0)) as opened:
            address, given = opened.getsockname()

    assert address == "127.1.2.11"
    assert given != port
