"""The listener on real sockets: what is sent is handed over or counted, and what cannot be had is explained."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError

from collector.listen.recvmmsg import ANCILLARY, AVAILABLE, BatchReader, Reader, Received, SingleReader, best_reader
from collector.listen.settings import Endpoint, ListenError, ListenSettings, parse_endpoint
from collector.listen.sockets import SHARDS
from collector.listen.udp import Listener, OpenSockets
from collector.metrics import Metrics
from collector.threads import run
from decoders.datagrams import Datagrams, address_halves

ROOT = Path(__file__).resolve().parents[2]
BOTH = ("127.0.0.1:0", "[::1]:0")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is a number in code under test
            await asyncio.sleep(0.001)


class Inbox:
    """Takes what the listener offers."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.batches: list[Datagrams] = []

    def offer(self, datagrams: Datagrams) -> bool:
        if len(self.batches) >= self.room:
            return False
        self.batches.append(datagrams)
        return True

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    def payloads(self) -> list[bytes]:
        return [
            batch.octets[start : start + length].tobytes()
            for batch in self.batches
            for start, length in zip(batch.start, batch.length, strict=True)
        ]

    def senders(self) -> Counter[tuple[int, int, int]]:
        return Counter(
            (int(high), int(low), int(port))
            for batch in self.batches
            for (high, low), port in zip(batch.address, batch.port, strict=True)
        )

    async def until(self, count: int) -> None:
        """Wait until `count` datagrams have come."""
        await until(lambda: len(self) >= count)


def sender_to(endpoint: Endpoint) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(endpoint))
    return sock


def own_address(sock: socket.socket) -> tuple[int, int, int]:
    host, port = sock.getsockname()[:2]
    return (*address_halves(host), port)


@pytest.fixture(
    params=[pytest.param(BatchReader, marks=pytest.mark.skipif(not AVAILABLE, reason="no recvmmsg")), SingleReader]
)
def reader(request: pytest.FixtureRequest) -> Reader:
    made: Reader = request.param()
    return made


@pytest.fixture(params=["uvloop", "asyncio"])
def run_on(request: pytest.FixtureRequest) -> Callable[[Coroutine[object, object, None]], None]:
    """Runs a coroutine on each kind of event loop, in debug mode."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return lambda main: run(main, fast_loop=request.param == "uvloop", debug=True)


def test_ipv4_and_ipv6_sockets_hand_over_everything(
    reader: Reader, run_on: Callable[[Coroutine[object, object, None]], None]
) -> None:
    chance = random.Random(6343)
    metrics = Metrics()
    inbox = Inbox()

    async def main() -> None:
        async with Listener(ListenSettings(addresses=BOTH), metrics, inbox.offer, reader=reader) as listener:
            senders = [sender_to(endpoint) for endpoint in listener.addresses for _ in range(2)]
            sent: list[bytes] = []
            for _ in range(20):
                for _ in range(100):
                    sent.append(chance.randbytes(chance.randrange(1, 3000)))
                    senders[len(sent) % 4].send(sent[-1])
                await inbox.until(len(sent))

            assert Counter(inbox.payloads()) == Counter(sent)
            assert inbox.senders() == {own_address(sender): 500 for sender in senders}
            for endpoint, part in zip(
                listener.addresses, (sent[0::4] + sent[3::4], sent[1::4] + sent[2::4]), strict=True
            ):
                label = str(endpoint)
                assert metrics.value("listen_datagrams_total", address=label) == 1000
                assert metrics.value("listen_bytes_total", address=label) == sum(map(len, part))
                assert metrics.value("listen_kernel_drops_total", address=label) == 0
                assert metrics.value("listen_truncated_total", address=label) == 0
                assert metrics.value("listen_errors_total", address=label) == 0
            batches = sum(metrics.value("listen_batches_total", address=str(e)) or 0 for e in listener.addresses)
            assert batches == len(inbox.batches)
            for sender in senders:
                sender.close()

    run_on(main())


def test_silence_and_traffic_take_turns(
    reader: Reader, run_on: Callable[[Coroutine[object, object, None]], None]
) -> None:
    """After a pause the socket waits for readiness again, and the next datagram is still noticed."""
    inbox = Inbox()

    async def main() -> None:
        settings = ListenSettings(addresses=("127.0.0.1:0",), gather_milliseconds=2)
        async with Listener(settings, Metrics(), inbox.offer, reader=reader) as listener:
            with sender_to(listener.addresses[0]) as sender:
                for number in range(1, 6):
                    sender.send(b"x")
                    await inbox.until(number)
                    await asyncio.sleep(0.01 if number % 2 else 0)

    run_on(main())

    assert len(inbox) == 5


def test_a_flood_lets_the_loop_run_between_batches(run_on: Callable[[Coroutine[object, object, None]], None]) -> None:
    rounds = 0
    seen: list[tuple[int, int]] = []

    def tick() -> None:
        nonlocal rounds
        rounds += 1
        asyncio.get_running_loop().call_soon(tick)

    def offer(datagrams: Datagrams) -> bool:
        seen.append((rounds, len(datagrams)))
        return True

    async def main() -> None:
        asyncio.get_running_loop().call_soon(tick)
        settings = ListenSettings(addresses=("127.0.0.1:0",))
        async with Listener(settings, Metrics(), offer, reader=SingleReader(50)) as listener:
            with sender_to(listener.addresses[0]) as sender:
                for _ in range(200):
                    sender.send(b"x")
            await until(lambda: sum(count for _, count in seen) >= 200)

    run_on(main())

    assert [count for _, count in seen] == [50, 50, 50, 50]
    assert len({at for at, _ in seen}) == 4


@pytest.mark.skipif(not ANCILLARY, reason="this system does not tell of drops")
def test_kernel_drops_are_counted(reader: Reader, run_on: Callable[[Coroutine[object, object, None]], None]) -> None:
    metrics = Metrics()
    inbox = Inbox()

    async def main() -> None:
        settings = ListenSettings(addresses=("127.0.0.1:0",), receive_buffer_bytes=4096)
        async with Listener(settings, metrics, inbox.offer, reader=reader) as listener:
            label = str(listener.addresses[0])
            with sender_to(listener.addresses[0]) as sender:
                for number in range(2000):  # the loop does not run meanwhile, so the buffer overflows
                    sender.send(bytes(100))
                    if number == 1000:
                        await asyncio.sleep(0.02)
            await listener.stop()
            drops = metrics.value("listen_kernel_drops_total", address=label)
            assert drops is not None
            assert drops > 1000
            assert len(inbox) + drops == 2000
            assert metrics.value("listen_datagrams_total", address=label) == len(inbox)
            assert metrics.value("listen_receive_queue_bytes", address=label) == 0

    run_on(main())


def test_stopping_hands_over_what_the_kernel_holds(
    reader: Reader, run_on: Callable[[Coroutine[object, object, None]], None]
) -> None:
    inbox = Inbox()
    sent = [number.to_bytes(4, "big") for number in range(1500)]

    async def main() -> None:
        async with Listener(ListenSettings(addresses=BOTH), Metrics(), inbox.offer, reader=reader) as listener:
            endpoints = listener.addresses
            for endpoint in endpoints:
                with sender_to(endpoint) as sender:
                    for payload in sent:
                        sender.send(payload)
            await listener.stop()
            await listener.stop()
            assert listener.addresses == []
        for endpoint in endpoints:  # and the ports are free again
            with socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(tuple(endpoint))

    run_on(main())

    assert inbox.payloads() == sent + sent


def test_a_full_inbox_does_not_end_reading(reader: Reader) -> None:
    """The inbox counts what it refuses; the listener goes on."""
    inbox = Inbox(room=0)
    metrics = Metrics()

    async def main() -> None:
        async with Listener(
            ListenSettings(addresses=("127.0.0.1:0",)), metrics, inbox.offer, reader=reader
        ) as listener:
            with sender_to(listener.addresses[0]) as sender:
                sender.send(b"refused")
                await until(lambda: metrics.value("listen_datagrams_total", address=str(listener.addresses[0])) == 1)
                inbox.room = 1
                sender.send(b"taken")
                await inbox.until(1)

    run(main(), debug=True)

    assert inbox.payloads() == [b"taken"]


def test_an_error_in_the_next_stage_does_not_end_reading(
    run_on: Callable[[Coroutine[object, object, None]], None],
) -> None:
    inbox = Inbox()
    errors: list[BaseException] = []

    def offer(datagrams: Datagrams) -> bool:
        if not errors:
            raise LookupError("a defect")
        return inbox.offer(datagrams)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
        async with Listener(ListenSettings(addresses=("127.0.0.1:0",)), Metrics(), offer) as listener:
            with sender_to(listener.addresses[0]) as sender:
                sender.send(b"lost")
                await until(lambda: len(errors) > 0)
                sender.send(b"kept")
                await inbox.until(1)

    run_on(main())

    assert [str(error) for error in errors] == ["a defect"]
    assert inbox.payloads() == [b"kept"]


class FailingOnce:
    """A reader whose first read fails as a socket can."""

    def __init__(self) -> None:
        self._reader = SingleReader()
        self.failed = False

    def warm(self) -> None:
        pass

    def read(self, sock: socket.socket, now_us: int) -> object:
        if not self.failed:
            self.failed = True
            raise OSError(105, "No buffer space available")
        return self._reader.read(sock, now_us)


def test_a_failed_read_is_counted_and_tried_again(run_on: Callable[[Coroutine[object, object, None]], None]) -> None:
    inbox = Inbox()
    metrics = Metrics()

    async def main() -> None:
        settings = ListenSettings(addresses=("127.0.0.1:0",))
        async with Listener(settings, metrics, inbox.offer, reader=FailingOnce()) as listener:  # type: ignore[arg-type]
            with sender_to(listener.addresses[0]) as sender:
                sender.send(b"late")
                await inbox.until(1)
            assert metrics.value("listen_errors_total", address=str(listener.addresses[0])) == 1

    run_on(main())

    assert inbox.payloads() == [b"late"]


def test_a_smaller_buffer_than_asked_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Linux keeps twice what is asked in a signed 32-bit number, so nobody is given 2**30."""
    metrics = Metrics()

    async def main() -> int:
        settings = ListenSettings(addresses=BOTH, receive_buffer_bytes=2**30)
        async with Listener(settings, metrics, Inbox().offer) as listener:
            values = [metrics.value("listen_receive_buffer_bytes", address=str(e)) for e in listener.addresses]
            assert all(value is not None and 4096 <= value < 2**30 for value in values)
            return int(min(value for value in values if value is not None))

    granted = run(main(), debug=True)

    (warning,) = [
        record for record in caplog.records if record.levelname == "WARNING" and record.name == "vmflow.listen"
    ]
    assert warning.vmflow_fields == {  # type: ignore[attr-defined]
        "asked_bytes": 2**30,
        "granted_bytes": granted,
        "remedy": "sysctl -w net.core.rmem_max=1073741824",
    }


def failure(settings: ListenSettings) -> ListenError:
    """Start a listener that cannot start."""

    async def main() -> ListenError:
        with pytest.raises(ListenError) as caught:
            await Listener(settings, Metrics(), Inbox().offer).start()
        return caught.value

    return run(main(), debug=True)


def test_a_busy_port_is_explained_and_nothing_stays_open() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free,
    ):
        busy.bind(("127.0.0.1", 0))
        free.bind(("127.0.0.1", 0))
        taken, other = Endpoint(*busy.getsockname()), Endpoint(*free.getsockname())
        free.close()

        error = failure(ListenSettings(addresses=(str(other), str(taken))))

        assert (error.key, error.value) == ("listen.addresses", str(taken))
        assert str(error) == (
            f"listen.addresses: UDP {taken} is in use; another vmflow or collector? stop it, or set listen.addresses "
            "(`ss -ulpn` shows who it is)"
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(tuple(other))


@pytest.mark.parametrize(
    ("address", "value", "problem"),
    [
        ("203.0.113.9:6343", "203.0.113.9:6343", "this machine has no address 203.0.113.9"),
        ("[2001:db8::9]:6343", "[2001:db8::9]:6343", "this machine has no address 2001:db8::9"),
        ("no-such-host.invalid:6343", "no-such-host.invalid:6343", "no-such-host.invalid is no address and no name"),
    ],
)
def test_a_bad_address_is_explained(address: str, value: str, problem: str) -> None:
    error = failure(ListenSettings(addresses=(address,)))

    assert (error.key, error.value) == ("listen.addresses", value)
    assert error.problem.startswith(problem)
    assert error.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights for a moment")
def test_a_port_that_needs_rights_is_explained() -> None:
    first_free = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not first_free.exists() or int(first_free.read_text()) <= 1:
        pytest.skip("every port is free for all on this system")
    os.seteuid(65534)
    try:
        error = failure(ListenSettings(addresses=("127.0.0.1:1",)))
    finally:
        os.seteuid(0)

    assert str(error) == (
        "listen.addresses: no permission for UDP 127.0.0.1:1; take a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
    )


def test_ports_are_shared_only_on_request(run_on: Callable[[Coroutine[object, object, None]], None]) -> None:
    inboxes = Inbox(), Inbox()

    async def main() -> None:
        settings = ListenSettings(addresses=("127.0.0.1:0",), share_ports=True)
        async with Listener(settings, Metrics(), inboxes[0].offer) as first:
            (endpoint,) = first.addresses
            shared = ListenSettings(addresses=(str(endpoint),), share_ports=True)
            async with Listener(shared, Metrics(), inboxes[1].offer):
                for _ in range(64):
                    with sender_to(endpoint) as sender:
                        sender.send(b"x")
                await until(lambda: len(inboxes[0]) + len(inboxes[1]) >= 64)

    run_on(main())

    assert len(inboxes[0]) + len(inboxes[1]) == 64
    assert min(map(len, inboxes)) > 0


class Watched:
    """A reader that notes on which socket each sender's datagrams came."""

    def __init__(self) -> None:
        self._reader = best_reader()
        self.sockets: dict[int, set[int]] = {}
        """Port of the sender -> file descriptors."""

    def warm(self) -> None:
        self._reader.warm()

    def read(self, sock: socket.socket, now_us: int) -> Received | None:
        received = self._reader.read(sock, now_us)
        if received is not None:
            for port in received.datagrams.port.tolist():
                self.sockets.setdefault(port, set()).add(sock.fileno())
        return received


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


needs_shards = pytest.mark.skipif(not SHARDS, reason="this system does not share senders out over sockets")


@needs_shards
@pytest.mark.parametrize("address", BOTH)
def test_several_sockets_share_the_senders_and_keep_the_order_of_each(
    address: str, run_on: Callable[[Coroutine[object, object, None]], None]
) -> None:
    inbox, watched, metrics = Inbox(), Watched(), Metrics()
    rounds, count = 10, 32

    async def main() -> None:
        settings = ListenSettings(addresses=(address,), sockets=4)
        async with Listener(settings, metrics, inbox.offer, reader=watched) as listener:
            (endpoint,) = listener.addresses
            with ExitStack() as opened:
                senders = [opened.enter_context(sender_to(endpoint)) for _ in range(count)]
                for number in range(rounds):
                    for sender in senders:
                        for part in range(20):
                            sender.send(port_of(sender).to_bytes(2, "big") + bytes([number, part]))
                    await asyncio.sleep(0.001)
                await inbox.until(rounds * count * 20)
                assert watched.sockets.keys() == {port_of(sender) for sender in senders}
            assert metrics.value("listen_datagrams_total", address=str(endpoint)) == rounds * count * 20

    run_on(main())

    assert all(len(fds) == 1 for fds in watched.sockets.values())
    assert len(set.union(*watched.sockets.values())) > 1
    by_sender: dict[bytes, list[bytes]] = {}
    for payload in inbox.payloads():
        by_sender.setdefault(payload[:2], []).append(payload[2:])
    in_order = [bytes([number, part]) for number in range(rounds) for part in range(20)]
    assert list(by_sender.values()) == [in_order] * count


@needs_shards
def test_a_sender_that_fills_a_buffer_harms_only_those_of_its_socket(
    run_on: Callable[[Coroutine[object, object, None]], None],
) -> None:
    inbox, watched, metrics = Inbox(), Watched(), Metrics()

    async def main() -> None:
        # Room for some 170 small datagrams on each socket.
        settings = ListenSettings(addresses=("127.0.0.1:0",), sockets=4, receive_buffer_bytes=2**16)
        async with Listener(settings, metrics, inbox.offer, reader=watched) as listener:
            (endpoint,) = listener.addresses
            with ExitStack() as opened:
                senders = [opened.enter_context(sender_to(endpoint)) for _ in range(33)]
                for number, sender in enumerate(senders):
                    sender.send(b"known")
                    await inbox.until(number + 1)
                for _ in range(2000):  # the loop does not run meanwhile, so nobody reads
                    senders[0].send(bytes(100))
                for sender in senders[1:]:
                    sender.send(b"beside")
                await listener.stop()
                flooder, *others = map(port_of, senders)
            came = {port: count - 1 for (_, _, port), count in inbox.senders().items()}
            apart = {port for port in others if watched.sockets[port] != watched.sockets[flooder]}
            assert 0 < len(apart) < len(others)
            assert {port for port in others if came[port]} == apart
            drops = metrics.value("listen_kernel_drops_total", address=str(endpoint))
            assert drops == (2000 - came[flooder]) + (len(others) - len(apart))

    run_on(main())


@needs_shards
def test_drops_of_all_sockets_are_summed_and_what_they_hold_is_handed_over_at_a_stop(
    run_on: Callable[[Coroutine[object, object, None]], None],
) -> None:
    inbox, watched, metrics = Inbox(), Watched(), Metrics()

    async def main() -> None:
        settings = ListenSettings(addresses=("127.0.0.1:0",), sockets=8, receive_buffer_bytes=4096)
        async with Listener(settings, metrics, inbox.offer, reader=watched) as listener:
            (endpoint,) = listener.addresses
            for _ in range(64):
                with sender_to(endpoint) as sender:
                    for _ in range(50):
                        sender.send(bytes(100))
            await listener.stop()
            assert listener.addresses == []
            drops = metrics.value("listen_kernel_drops_total", address=str(endpoint))
            assert drops == listener.kernel_drops > 0
            assert len(inbox) + drops == 64 * 50
            assert metrics.value("listen_receive_queue_bytes", address=str(endpoint)) == 0

    run_on(main())

    assert len(set.union(*watched.sockets.values())) > 1


@needs_shards
@pytest.mark.parametrize(("first", "second"), [(4, 4), (4, 1), (1, 4)])
def test_a_second_service_does_not_get_a_part_of_the_port(first: int, second: int) -> None:
    async def main() -> str:
        settings = ListenSettings(addresses=("127.0.0.1:0",), sockets=first)
        async with Listener(settings, Metrics(), Inbox().offer) as listener:
            (endpoint,) = listener.addresses
            with pytest.raises(ListenError) as caught:
                await Listener(
                    ListenSettings(addresses=(str(endpoint),), sockets=second), Metrics(), Inbox().offer
                ).start()
            return str(caught.value).replace(str(endpoint), "HERE")

    assert run(main(), debug=True) == (
        "listen.addresses: UDP HERE is in use; another vmflow or collector? stop it, or set listen.addresses "
        "(`ss -ulpn` shows who it is)"
    )


@needs_shards
def test_who_shares_its_port_with_everybody_is_reported_too() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        taken = Endpoint(*other.getsockname())

        error = failure(ListenSettings(addresses=(str(taken),), sockets=4))

    assert error.problem == f"UDP {taken} is in use"


def test_a_machine_without_ipv6_listens_on_ipv4() -> None:
    """In a network of its own, where IPv6 is switched off, the default addresses still work."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip")
    script = """
        from collector.listen.settings import ListenSettings
        from collector.listen.udp import Listener
        from collector.metrics import Metrics
        from collector.threads import run

        async def main():
            async with Listener(ListenSettings(), Metrics(), lambda datagrams: True) as listener:
                print(*listener.addresses)

        run(main())
    """
    network = (
        'ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && test -x "$1" && echo ready && exec'
    )
    command = [unshare, "-rn", "sh", "-c", f'{network} "$@"', "sh", sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if not done.stdout.startswith("ready"):
        pytest.skip(f"no network of one's own here: {done.stderr.strip()}")

    assert done.stdout == "ready\n127.0.0.1:6343 127.0.0.1:2055 127.0.0.1:4739\n", done.stderr


def test_the_defaults_are_every_protocols_port_on_both_loopbacks() -> None:
    assert [str(endpoint) for endpoint in ListenSettings().endpoints()] == [
        "127.0.0.1:6343",
        "[::1]:6343",
        "127.0.0.1:2055",
        "[::1]:2055",
        "127.0.0.1:4739",
        "[::1]:4739",
    ]


def test_endpoints_are_read() -> None:
    assert parse_endpoint("[fe80::1%eth0]:2055") == Endpoint("fe80::1%eth0", 2055)
    assert parse_endpoint("collector.example:0") == Endpoint("collector.example", 0)


@pytest.mark.parametrize(
    "text", ["", "6343", "127.0.0.1", "127.0.0.1:", ":6343", "::1:6343", "[::1]", "h:65536", "h:-1", "h:²"]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="as in"):
        ListenSettings(addresses=(text,))


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"listed more than once: 127\.0\.0\.1:1"):
        ListenSettings(addresses=("127.0.0.1:1", "127.0.0.1:1"))
    with pytest.raises(ValidationError, match="at least 1 item"):
        ListenSettings(addresses=())
    with pytest.raises(ValidationError, match="Extra inputs"):
        ListenSettings.model_validate({"adresses": ["127.0.0.1:1"]})


class Told:
    """Reads a socket, and states these totals of the kernel's drops, one a batch."""

    def __init__(self, *totals: int) -> None:
        self._reader, self._totals = best_reader(), list(totals)

    def warm(self) -> None:
        self._reader.warm()

    def read(self, sock: socket.socket, now_us: int) -> Received | None:
        received = self._reader.read(sock, now_us)
        if received is None or not len(received.datagrams):
            return received
        return received._replace(drops_total=self._totals.pop(0))


@pytest.mark.parametrize(("totals", "drops"), [((10, 7, 12), 12), ((2**31 - 1, 2**32 - 3, 4), 2**32 + 4)])
def test_totals_of_drops_that_come_late_add_nothing_and_wrap(totals: tuple[int, ...], drops: int) -> None:
    """The kernel's total has 32 bits; batches of several threads may come in another order."""
    metrics, inbox = Metrics(), Inbox()

    async def main() -> None:
        settings = ListenSettings(addresses=("127.0.0.1:0",), gather_milliseconds=0)
        async with Listener(settings, metrics, inbox.offer, reader=Told(*totals)) as listener:
            with sender_to(listener.addresses[0]) as sender:
                for number in range(len(totals)):
                    sender.send(b"x")
                    await inbox.until(number + 1)
            assert metrics.value("listen_kernel_drops_total", address=str(listener.addresses[0])) == drops

    run(main())


def test_datagrams_that_come_before_the_listener_reads_are_kept() -> None:
    """Its sockets are opened while the store opens; without a start they are closed again."""
    got: list[Datagrams] = []

    async def scenario() -> tuple[list[str], bool]:
        listener = Listener(ListenSettings(addresses=("127.0.0.1:0",)), Metrics(), lambda batch: not got.append(batch))
        async with OpenSockets(listener):
            port = listener._unread[0].getsockname()[1]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
                exporter.sendto(b"early", ("127.0.0.1", port))
            async with listener:
                assert listener.addresses[0].port == port
                await until(lambda: bool(got))
        texts = [bytes(batch.octets[batch.start[0] :][: batch.length[0]]) for batch in got]
        unread = Listener(ListenSettings(addresses=("127.0.0.1:0",)), Metrics(), lambda batch: True)
        async with OpenSockets(unread):
            sock = unread._unread[0]
        return [text.decode() for text in texts], sock.fileno() == -1

    assert asyncio.run(scenario()) == (["early"], True)
