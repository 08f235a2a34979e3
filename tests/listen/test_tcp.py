"""IPFIX over TCP and TLS: real connections, real exporters' messages, and what ends a connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from pydantic import ValidationError

from collector.http.settings import AccessError
from collector.listen.settings import ListenError, ListenSettings
from collector.listen.tcp import BrokenMessageError, StreamListener, whole_messages
from collector.metrics import Metrics
from decoders.datagrams import Datagrams, address_halves
from decoders.decoder import Decoder
from tests import service as services
from tests.decoders.netflow.support import BASE, base, in_set, ipfix, template
from tests.decoders.support import payloads, rows
from tests.listen.test_udp import Inbox, until

NOW_US = 1_700_000_000_000_000
TCP = ("tcp://127.0.0.1:0",)


def message(octets: int = 16) -> bytes:
    return ipfix(b"x" * (octets - 16))


class Messages(Inbox):
    """Takes messages, and keeps apart which connections have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[Datagrams] = []

    def offer(self, datagrams: Datagrams) -> bool:
        if datagrams.length.tolist() == [0]:
            self.ended.append(datagrams)
            return True
        return super().offer(datagrams)

    def connections(self) -> list[int]:
        """Number of the connection of each message."""
        return [number for batch in self.batches for number in batch.connection.tolist()]


class Room:
    """Says whether there is room, and what was asked."""

    def __init__(self) -> None:
        self.free = True
        self.asked = 0

    def __call__(self, octets: int) -> bool:
        self.asked += 1
        return self.free


@asynccontextmanager
async def listening(
    inbox: Messages, room: Room | None = None, allowed: Callable[[str], bool] = lambda _: True, **settings: Any
) -> AsyncIterator[tuple[StreamListener, Metrics]]:
    metrics = Metrics()
    chosen = ListenSettings.model_validate({"streams": TCP, **settings})
    room = room or Room()
    async with StreamListener(
        chosen, metrics, inbox.offer, room=room, allowed=allowed, clock_us=lambda: NOW_US
    ) as listener:
        yield listener, metrics


async def connect(listener: StreamListener, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    _, host, port = listener.addresses[0]
    return await asyncio.open_connection(host, port, **options)


def closed(listener: StreamListener, metrics: Metrics, reason: str) -> float | None:
    return metrics.value("listen_stream_closed_total", address=str(listener.addresses[0]), reason=reason)


def test_messages_are_cut_at_their_lengths() -> None:
    stream = message(16) + message(20) + message(65_535)
    assert whole_messages(stream) == [16, 36, 65_571]
    for end in range(0, 36):
        assert whole_messages(stream[:end]) == [at for at in (16, 36) if at <= end]
    assert whole_messages(stream[:65_570]) == [16, 36]
    assert whole_messages(message() + b"\x00\x09\x00\x10") == [16], "those before a broken one are taken"
    with pytest.raises(BrokenMessageError, match="version"):
        whole_messages(b"\x00\x09\x00\x20")
    with pytest.raises(BrokenMessageError, match="length"):
        whole_messages(b"\x00\x0a\x00\x0f")
    assert len(whole_messages(message() * 10_000)) == 2048
    assert whole_messages(message(65_000) * 10)[-1] == 195_000


@pytest.mark.parametrize("piece", [1, 7, 1000, 10_000_000])
def test_a_stream_gives_the_messages_that_were_sent(piece: int) -> None:
    sent = payloads("softflowd_ipfix")[: 4 if piece == 1 else None]
    wanted = [payload for payload, *_ in sent]
    stream = b"".join(wanted)

    async def scenario() -> tuple[Messages, Metrics, tuple[str, int], str]:
        inbox = Messages()
        async with listening(inbox) as (listener, metrics):
            _, writer = await connect(listener)
            own = writer.get_extra_info("sockname")
            for at in range(0, len(stream), piece):
                writer.write(stream[at : at + piece])
                await asyncio.sleep(0)
            await inbox.until(len(wanted))
            writer.close()
            await until(lambda: closed(listener, metrics, "end") == 1)
            return inbox, metrics, own, str(listener.addresses[0])

    inbox, metrics, own, address = asyncio.run(scenario())
    assert inbox.payloads() == wanted
    assert dict(inbox.senders()) == {(*address_halves(own[0]), own[1]): len(wanted)}
    assert {int(at) for batch in inbox.batches for at in batch.time_received_us} == {NOW_US}
    assert metrics.value("listen_stream_messages_total", address=address) == len(wanted)
    assert metrics.value("listen_stream_bytes_total", address=address) == len(stream)
    assert metrics.value("listen_stream_connections", address=address) == 0


def test_the_rows_are_those_of_the_capture() -> None:
    """Rows, packets and octets as in the capture's own truth, with templates once per connection."""

    async def scenario() -> Messages:
        inbox = Messages()
        async with listening(inbox) as (listener, _):
            _, writer = await connect(listener)
            writer.writelines(payload for payload, *_ in payloads("softflowd_ipfix"))
            await inbox.until(len(payloads("softflowd_ipfix")))
            writer.close()
        return inbox

    inbox = asyncio.run(scenario())
    decoder = Decoder()
    found = [row for batch in inbox.batches for row in rows(decoder.decode(batch).flows)]
    assert (len(found), sum(r["packets"] for r in found), sum(r["bytes"] for r in found)) == (1045, 15622, 16419985)
    assert decoder.shared.sessions.problems.sum() == 0


def test_templates_are_those_of_one_connection() -> None:
    """RFC 7011 section 8.1: data that another connection sends has no template."""
    data = ipfix(in_set(256, base()))

    async def scenario() -> Messages:
        inbox = Messages()
        async with listening(inbox) as (listener, _):
            _, first = await connect(listener)
            first.write(ipfix(template(256, BASE)) + data)
            await inbox.until(2)
            _, second = await connect(listener)
            second.write(data)
            await inbox.until(3)
            first.close()
            second.close()
        return inbox

    decoder = Decoder()
    found = [len(rows(decoder.decode(batch).flows)) for batch in asyncio.run(scenario()).batches]
    assert sum(found) == 1
    assert found[-1] == 0


def test_the_next_stage_hears_of_the_end_of_a_connection_that_gave_messages() -> None:
    async def scenario() -> Messages:
        inbox = Messages()
        async with listening(inbox) as (listener, metrics):
            _, silent = await connect(listener)
            _, first = await connect(listener)
            _, second = await connect(listener)
            first.write(message(40) + message(50))
            await inbox.until(2)
            second.write(message(60))
            await inbox.until(3)
            silent.close()
            first.close()
            await until(lambda: closed(listener, metrics, "end") == 2)
            assert [end.connection[0] for end in inbox.ended] == [inbox.connections()[0]]
        second.close()
        return inbox

    inbox = asyncio.run(scenario())
    one, same, other = inbox.connections()
    assert one == same != other
    assert min(one, other) > 0
    assert [end.connection.tolist() for end in inbox.ended] == [[one], [other]]


def test_a_connection_from_the_same_port_finds_no_templates_of_the_one_before() -> None:
    data = ipfix(in_set(256, base()))
    taken: list[Datagrams] = []

    async def scenario() -> tuple[int, int]:
        inbox = Messages()
        async with listening(inbox) as (listener, _):
            _, host, port = listener.addresses[0]
            own = 0
            for number, octets in enumerate((ipfix(template(256, BASE)) + data, data), 1):
                with socket.socket() as sock:
                    # Closed by a reset, so that the port is free at once.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(("127.0.0.1", own))
                    own = sock.getsockname()[1]
                    sock.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(sock, (host, port))
                    await asyncio.get_running_loop().sock_sendall(sock, octets)
                    await inbox.until(number + 1)
                await until(lambda number=number: len(inbox.ended) == number)  # type: ignore[misc]
        taken.extend(inbox.batches)
        taken.append(inbox.ended[0])
        return len(inbox.senders()), len(inbox)

    assert asyncio.run(scenario()) == (1, 3), "all from one port"
    decoder = Decoder()
    assert [len(rows(decoder.decode(batch).flows)) for batch in taken] in ([1, 0, 0], [0, 1, 0, 0])
    assert len(decoder.sets.templates) == 0


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\x00\x09\x00\x20" + bytes(28), "version"),
        (b"GET / HTTP/1.1\r\n", "version"),
        (b"\x16\x03\x01\x02\x00", "version"),  # TLS spoken to a port without
        (b"\x00\x0a\x00\x0f" + bytes(28), "length"),
        (b"\x00\x0a\x00\x00" + bytes(28), "length"),
        (message(40)[:39], "cut"),
        (message(40)[:3], "cut"),
        (b"", "end"),
    ],
)
def test_what_is_no_message_ends_its_connection(octets: bytes, reason: str) -> None:
    async def scenario() -> list[bytes]:
        inbox = Messages()
        async with listening(inbox) as (listener, metrics):
            reader, writer = await connect(listener)
            _, other = await connect(listener)
            writer.write(message(30) + octets)
            writer.write_eof()
            with_end = asyncio.create_task(reader.read())
            await asyncio.wait({with_end}, timeout=20)
            assert with_end.done()
            with_end.exception()  # a reset, or the end
            await until(lambda: closed(listener, metrics, reason) == 1)
            other.write(message(50))
            await inbox.until(2)
            writer.close()
            other.close()
        return inbox.payloads()

    assert asyncio.run(scenario()) == [message(30), message(50)]


def test_without_room_the_connection_waits_and_nothing_is_lost() -> None:
    sent = [message(1000 + number) for number in range(3000)]

    async def scenario() -> tuple[list[bytes], int, float]:
        inbox, room = Messages(), Room()
        async with listening(inbox, room) as (listener, metrics):
            room.free = False
            _, writer = await connect(listener)
            writer.writelines(sent)
            await until(lambda: room.asked >= 20)
            held = max(len(connection._buffer) for connection in listener.connections)
            assert len(inbox) == 0
            room.free = True
            await inbox.until(len(sent))
            writer.close()
            return (
                inbox.payloads(),
                held,
                metrics.value("listen_stream_waits_total", address=str(listener.addresses[0])) or 0,
            )

    got, held, waits = asyncio.run(scenario())
    assert got == sent
    assert held <= 400_000
    assert waits >= 1


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_an_exporter_that_never_reads_loses_nothing_when_it_closes(certificates: Certificates, scheme: str) -> None:
    """A TLS 1.3 server sends tickets: unread, they would make the exporter's kernel reset the connection."""
    count = 5000
    room = Room()

    def export(port: int) -> None:
        context = ssl.create_default_context(cafile=str(certificates.ca))
        with socket.create_connection(("127.0.0.1", port)) as plain:
            sock = context.wrap_socket(plain, server_hostname="127.0.0.1") if scheme == "tls" else plain
            sock.sendall(message(1000) * count)
            sock.close()

    async def scenario() -> int:
        inbox = Messages()
        settings = certificates.settings() | {"streams": (f"{scheme}://127.0.0.1:0",)}
        async with listening(inbox, room, **settings) as (listener, metrics):
            asyncio.get_running_loop().call_later(0.3, setattr, room, "free", True)
            room.free = False
            await asyncio.to_thread(export, listener.addresses[0].port)
            await until(lambda: closed(listener, metrics, "end") == 1)
        return len(inbox)

    assert asyncio.run(scenario()) == count


async def speak(listener: StreamListener, source: str) -> asyncio.StreamWriter:
    """A connection that has given a message."""
    before = listener.families.messages.labels(str(listener.addresses[0]))
    count = before._value.get()
    _, writer = await connect(listener, local_addr=(source, 0))
    writer.write(message())
    await until(lambda: before._value.get() == count + 1)
    return writer


def refused(listener: StreamListener, metrics: Metrics, reason: str) -> float | None:
    return metrics.value("listen_stream_refused_total", address=str(listener.addresses[0]), reason=reason)


def test_connections_are_bounded() -> None:
    async def scenario() -> None:
        async with listening(Messages(), stream_connections=3, stream_connections_per_source=2) as (listener, metrics):
            kept = [await speak(listener, "127.0.0.1") for _ in range(2)]
            reader, writer = await connect(listener, local_addr=("127.0.0.1", 0))
            assert await reader.read() == b""
            writer.close()
            kept.append(await speak(listener, "127.0.0.2"))
            reader, writer = await connect(listener, local_addr=("127.0.0.3", 0))
            assert await reader.read() == b""
            writer.close()
            kept[0].close()
            await until(lambda: len(listener.connections) == 2)
            kept.append(await speak(listener, "127.0.0.3"))
            assert len(listener.connections) == 3
            for writer in kept:
                writer.close()
            assert {reason: refused(listener, metrics, reason) for reason in ("source", "connections")} == {
                "source": 1,
                "connections": 1,
            }
            assert refused(listener, metrics, "not_allowed") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_silent_connections_give_way_and_those_that_spoke_stay(certificates: Certificates, scheme: str) -> None:
    """With TLS they do not even begin the handshake."""

    async def scenario() -> None:
        settings = certificates.settings() | {"streams": (f"{scheme}://127.0.0.1:0",)}
        settings |= {"stream_connections": 6, "stream_connections_per_source": 4}
        inbox = Messages()
        async with listening(inbox, **settings) as (listener, metrics):
            _, host, port = listener.addresses[0]
            context = ssl.create_default_context(cafile=certificates.ca) if scheme == "tls" else None
            _, good = await connect(listener, ssl=context, local_addr=("127.0.0.9", 0))
            good.write(message())
            await until(lambda: len(inbox.batches) == 1)
            silent = []
            for number in range(60):
                sock = socket.create_connection((host, port), source_address=(f"127.0.1.{number // 10}", 0))
                silent.append(sock)
            await until(lambda: (closed(listener, metrics, "displaced") or 0) >= 55)
            _, second = await connect(listener, ssl=context, local_addr=("127.0.0.9", 0))
            for writer in (good, second):
                writer.write(message())
            await until(lambda: len(inbox.batches) == 3)
            assert refused(listener, metrics, "connections") is None
            assert listener._places.taken <= 6
            for sock in silent:
                sock.close()
            for writer in (good, second):
                writer.close()

    asyncio.run(scenario())


def test_who_may_not_export_is_not_listened_to() -> None:
    async def scenario() -> float | None:
        async with listening(Messages(), allowed=lambda address: address != "127.0.0.1") as (listener, metrics):
            reader, writer = await connect(listener)
            assert await reader.read() == b""
            writer.close()
            return metrics.value(
                "listen_stream_refused_total", address=str(listener.addresses[0]), reason="not_allowed"
            )

    assert asyncio.run(scenario()) == 1


@pytest.mark.parametrize(
    ("settings", "sent", "reason"),
    [
        ({"stream_idle_seconds": 0.05, "stream_message_seconds": 0.1}, message(), "idle"),
        ({"stream_message_seconds": 0.1}, b"", "silent"),
        ({"stream_message_seconds": 0.1}, message(500)[:100], "slow"),
    ],
    ids=["idle", "silent", "slow"],
)
def test_silent_connections_are_closed(settings: dict[str, float], sent: bytes, reason: str) -> None:
    async def scenario() -> None:
        async with listening(Messages(), **settings) as (listener, metrics):
            _, writer = await connect(listener)
            writer.write(sent)
            await until(lambda: closed(listener, metrics, reason) == 1)
            writer.close()

    asyncio.run(scenario())


class Certificates:
    """Of a server and of an exporter, by one authority, as files."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.ca = directory / "ca.crt"
        self.authority.cert_pem.write_to_path(str(self.ca))
        made = self.authority.issue_cert("127.0.0.1")
        self.certificate, self.key = directory / "server.crt", directory / "server.key"
        made.cert_chain_pems[0].write_to_path(str(self.certificate))
        made.private_key_pem.write_to_path(str(self.key))
        client = self.authority.issue_cert("exporter.example.net")
        self.client = directory / "client.pem"
        client.private_key_and_cert_chain_pem.write_to_path(str(self.client))

    def settings(self, *, mutual: bool = False) -> dict[str, Any]:
        files = {"certificate_file": self.certificate, "key_file": self.key}
        return {"streams": ("tls://127.0.0.1:0",), **files, **({"client_ca_file": self.ca} if mutual else {})}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing: apt-get install openssl")
def test_openssl_sends_over_tls(certificates: Certificates, mutual: bool) -> None:
    sent = b"".join(message(1000 + number) for number in range(500))

    async def scenario() -> list[bytes]:
        inbox = Messages()
        async with listening(inbox, **certificates.settings(mutual=mutual)) as (listener, _):
            command = [
                "openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", str(certificates.ca),
                "-connect", f"127.0.0.1:{listener.addresses[0].port}", "-cert", str(certificates.client),
            ]  # fmt: skip
            client = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            assert client.stdin is not None
            client.stdin.write(sent)
            await client.stdin.drain()
            await inbox.until(500)
            client.stdin.close()
            client.kill()
            await client.wait()
        return inbox.payloads()

    assert b"".join(asyncio.run(scenario())) == sent


async def _send_and_read(listener: StreamListener, context: ssl.SSLContext) -> None:
    """Raises where the connection is refused: with TLS 1.3, the refusal comes with the first read."""
    reader, writer = await connect(listener, ssl=context)
    try:
        writer.write(message())
        await writer.drain()
        if await reader.read() == b"":
            raise ConnectionResetError
    finally:
        writer.close()


def test_who_has_no_certificate_is_refused_where_one_is_asked_for(certificates: Certificates) -> None:
    async def scenario() -> int:
        inbox = Messages()
        async with listening(inbox, **certificates.settings(mutual=True)) as (listener, metrics):
            context = ssl.create_default_context(cafile=str(certificates.ca))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await _send_and_read(listener, context)
            await until(lambda: closed(listener, metrics, "handshake") == 1)
            _, plain = await connect(listener)
            plain.write(message())
            await until(lambda: closed(listener, metrics, "handshake") == 2)
            plain.close()
        return len(inbox)

    assert asyncio.run(scenario()) == 0


def test_a_new_certificate_is_taken_over_and_exporters_still_need_theirs(tmp_path: Path) -> None:
    old, new = Certificates(_made(tmp_path / "old")), Certificates(_made(tmp_path / "new"))

    async def send(listener: StreamListener, server: Certificates, exporter: Certificates | None) -> None:
        """Raises where the one does not take the other."""
        context = ssl.create_default_context(cafile=str(server.ca))
        if exporter is not None:
            context.load_cert_chain(exporter.client)
        reader, writer = await connect(listener, ssl=context)
        try:
            writer.write(message())
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):  # a refusal comes with the first read
                    assert await reader.read(1), "refused"
        finally:
            writer.close()

    async def scenario() -> int:
        inbox = Messages()
        async with listening(inbox, **old.settings(mutual=True)) as (listener, _):
            await send(listener, old, old)
            await inbox.until(1)
            for name in ("certificate", "key", "ca"):
                getattr(new, name).replace(getattr(old, name))
            new.ca.write_bytes(old.ca.read_bytes())
            listener.read_again()()
            for exporter in (None, old):
                with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                    await send(listener, new, exporter)
            await send(listener, new, new)
            await inbox.until(2)
            old.certificate.write_text("nonsense")
            with pytest.raises(AccessError, match="no certificate in"):
                listener.read_again()
            await send(listener, new, new)
            await inbox.until(3)
        return len(inbox)

    assert asyncio.run(scenario()) == 3


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_addresses_that_cannot_be_had_are_named(certificates: Certificates, tmp_path: Path) -> None:
    async def enter(**settings: Any) -> None:
        async with listening(Messages(), **settings):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"listen\.streams: tcp://127\.0\.0\.1:{port} .*in use"):
            asyncio.run(enter(streams=(f"tcp://127.0.0.1:{port}",)))
    absent = certificates.settings() | {"key_file": tmp_path / "absent"}
    with pytest.raises(AccessError, match=r"listen\.key_file = .*absent: No such file"):
        asyncio.run(enter(**absent))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"streams": ["127.0.0.1:4739"]}, "tcp://host:port or tls://host:port"),
        ({"streams": ["udp://127.0.0.1:4739"]}, "tcp://host:port or tls://host:port"),
        ({"streams": ["tcp://127.0.0.1"]}, "host:port is expected"),
        ({"streams": ["tls://127.0.0.1:4740"]}, "need certificate_file and key_file"),
        ({"streams": [*TCP, *TCP]}, "more than once"),
        ({"certificate_file": "/x"}, "belong together"),
    ],
)
def test_mistakes_are_reported(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        ListenSettings.model_validate(values)


def test_batches_fit_the_decoders() -> None:
    """The compiled kernels know writable, contiguous arrays of these types only."""

    async def scenario() -> Datagrams:
        inbox = Messages()
        async with listening(inbox) as (listener, _):
            _, writer = await connect(listener)
            writer.write(message(33) + message(17))
            await inbox.until(2)
            writer.close()
        return inbox.batches[0]

    batch, like = asyncio.run(scenario()), Datagrams.of([(b"x", "192.0.2.1", 1, 1)])
    for name in ("octets", "start", "length", "address", "port", "time_received_us", "connection"):
        array: np.ndarray[Any, Any] = getattr(batch, name)
        assert array.dtype == getattr(like, name).dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable


SOFTFLOWD = shutil.which("softflowd")


@pytest.mark.network
@pytest.mark.skipif(SOFTFLOWD is None, reason="softflowd is missing: apt-get install softflowd")
@pytest.mark.skipif(os.geteuid() != 0, reason="capturing on lo needs root")
def test_softflowd_exports_over_tcp_to_the_service(tmp_path: Path) -> None:
    """An exporter that nobody here wrote, on the loopback interface: its own count of packets is the truth."""
    with services.running(tmp_path, 'listen.streams=["tcp://127.0.0.1:0"]') as service:
        target = str(service.ready["streams"]).removeprefix("tcp://")
        control = tmp_path / "control"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind(("127.0.0.1", 0))
            port = sink.getsockname()[1]
            command = [
                str(SOFTFLOWD), "-d", "-v", "10", "-P", "tcp", "-n", target, "-i", "lo",
                "-p", str(tmp_path / "pid"), "-c", str(control), f"udp and dst port {port}",
            ]  # fmt: skip
            exporter = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                packets = _send_until_seen(control, port)
                subprocess.run(["softflowctl", "-c", str(control), "shutdown"], check=True, capture_output=True)
                exporter.wait(20)
            finally:
                exporter.kill()
                exporter.wait()
        sql = f"SELECT sum(packets) AS n FROM flows WHERE dst_port = {port}"
        assert service.wait_for_rows(sql, packets) == packets
        found = service.query(
            "SELECT count() AS flows, sum(bytes) AS octets, uniqExact(src_port) AS sources, any(exporter) AS exporter "
            f"FROM flows WHERE dst_port = {port}"
        )[0]
        assert int(found["octets"]) == packets * 128  # 100 octets, and 28 of IPv4 and UDP
        assert int(found["sources"]) == 40
        assert found["exporter"] == "::ffff:127.0.0.1"
        assert service.metric("vmflow_listen_stream_messages_total") >= 1
        assert service.stop() == 0


def _send_until_seen(control: Path, port: int) -> int:
    """Send from 40 sockets until softflowd has seen a packet of each, then tell how many packets it has seen.

    It looks at packets only while more of them come.
    """
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(40)]
    try:
        deadline = time.monotonic() + 30
        while not control.exists() or _seen(control) < 400:
            assert time.monotonic() < deadline, "softflowd sees nothing on lo"
            for sock in sockets:
                sock.sendto(b"x" * 100, ("127.0.0.1", port))
            time.sleep(0.05)
        seen = -1
        while seen != (seen := _seen(control)):
            time.sleep(1)
        return seen
    finally:
        for sock in sockets:
            sock.close()


def _seen(control: Path) -> int:
    answer = subprocess.run(
        ["softflowctl", "-c", str(control), "statistics"], capture_output=True, text=True, check=False
    )
    return next((int(line.split()[-1]) for line in answer.stdout.splitlines() if line.startswith("Packets proc")), 0)
