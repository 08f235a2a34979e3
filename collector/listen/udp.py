"""The listener: UDP sockets on the event loop, batches of datagrams passed to the next stage.

Strategy.  A silent socket waits for readiness; its first datagram is read and passed on at once.  A socket that was
just emptied is not read for a few milliseconds, and then read again, without asking for readiness, until a read finds
nothing: at high rates each read brings many datagrams and the loop is free in between (network drivers do the same).
One turn is one read of at most 1,024 datagrams, then the loop runs everything else that is due, so neither one socket
nor a flood keeps others waiting.  What happens meanwhile waits in the kernel, with its time of arrival.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Self

from prometheus_client import Counter, Gauge

from collector.interfaces import Call, Clock, Offer
from collector.listen.recvmmsg import NO_TOTAL, Reader, Received, best_reader
from collector.listen.settings import Endpoint, ListenSettings
from collector.listen.sockets import granted_bytes, memory_state, open_sockets
from collector.log import get_log
from collector.metrics import Metrics

FILL_BYTES_PER_SECOND = 200_000_000
"""How fast a receive buffer is expected to fill at worst: 1 Gbit/s of full datagrams, kernel overhead included."""
SHORTEST_PAUSE_SECONDS = 0.001
"""The event loops' timers have no shorter one."""
ERROR_PAUSE_SECONDS = 0.1
"""Pause after a failed read: the cause does not vanish sooner, and the loop must not spin on it."""
STATE_INTERVAL_SECONDS = 1.0
"""How often queue length and drops are read if no datagram brings them; scrapes are rarer."""
DRAIN_TURNS = 256
"""Reads per socket when stopping: a quarter of a million datagrams, more than any buffer allowed here holds."""

_log = get_log("listen")


class OpenSockets:
    """The component that opens a listener's sockets early, while what reads them starts."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def __aenter__(self) -> Self:
        await self._listener.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._listener.stop()


def wall_clock_us() -> int:
    """Return the time, microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Listener:
    """The listener, which receives datagrams on the sockets of `settings` and passes them, in batches, to `offer`.

    `offer` returns False if it dropped the batch, which it has then counted.  `clock_us` (µs since 1970 UTC) is used if
    the kernel does not state the time of receipt.  `call` is for compiling the reader, off the event loop.
    """

    def __init__(
        self,
        settings: ListenSettings,
        metrics: Metrics,
        offer: Offer,
        *,
        reader: Reader | None = None,
        clock_us: Clock = wall_clock_us,
        call: Call | None = None,
    ) -> None:
        self._settings = settings
        self._offer = offer
        self._reader = reader
        self._clock_us = clock_us
        self._call = call
        self._families = _Families(metrics)
        self._ports: list[_UdpSocket] = []
        self._unread: list[socket.socket] = []
        """Sockets that are open before `start`."""
        self._state_timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def addresses(self) -> list[Endpoint]:
        """Where the sockets are bound, each address once, in the order of the settings; ports that were 0 are the real
        ones."""
        return list(dict.fromkeys(port.endpoint for port in self._ports))

    @property
    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped at these sockets so far, including closed ones."""
        return self._families.dropped_datagrams

    async def open(self) -> None:
        """Open the sockets, if they are not open: from here on, the kernel keeps what arrives until it is read.  Raises
        ListenError, with no socket left open."""
        if not self._unread:
            self._unread = await open_sockets(self._settings)

    async def start(self) -> None:
        """Open the sockets and begin to read.  Raises ListenError, with no socket left open."""
        await self.open()
        sockets, self._unread = self._unread, []
        try:
            reader = self._chosen()
            if self._call is None:
                reader.warm()
            else:
                await self._call(reader.warm)
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        for sock in sockets:
            pause = _pause_seconds(self._settings.gather_milliseconds / 1000, granted_bytes(sock))
            port = _UdpSocket(
                sock,
                reader=reader,
                offer=self._offer,
                clock_us=self._clock_us,
                families=self._families,
                pause_seconds=pause,
            )
            self._ports.append(port)
            port.start()
        self._report_buffers()
        self._report_state()

    def warmer(self) -> Callable[[], None]:
        """The function that compiles or loads what `start` needs; it blocks, and may be called before, on any
        thread."""
        return self._chosen().warm

    def _chosen(self) -> Reader:
        if self._reader is None:
            self._reader = best_reader()
        return self._reader

    async def stop(self) -> None:
        """Stop reading, pass on what the kernel holds, close the sockets.  May be called again."""
        if self._state_timer is not None:
            self._state_timer.cancel()
            self._state_timer = None
        for port in self._ports:
            port.pause()
        stopped_us = self._clock_us()
        try:
            for port in self._ports:
                await port.drain(stopped_us)
            self._read_state()
        finally:
            # All at once: the kernel moves the senders of a closed socket to other sockets, which were already read.
            for port in self._ports:
                port.close()
            for sock in self._unread:
                sock.close()
            self._ports, self._unread = [], []

    def _report_buffers(self) -> None:
        asked = self._settings.receive_buffer_bytes
        granted = {str(port.endpoint): granted_bytes(port.sock) for port in self._ports}
        for address, octets in granted.items():
            self._families.buffer_bytes.labels(address).set(octets)
            _log.info("listening", address=address, sockets=self._settings.sockets, receive_buffer_bytes=octets)
        if min(granted.values()) < asked:
            _log.warning(
                "the receive buffers are smaller than asked for, bursts may be lost",
                asked_bytes=asked,
                granted_bytes=min(granted.values()),
                remedy=f"sysctl -w net.core.rmem_max={asked}",
            )

    def _report_state(self) -> None:
        """Read queue lengths and drops now, and again each second."""
        self._read_state()
        loop = asyncio.get_running_loop()
        self._state_timer = loop.call_later(STATE_INTERVAL_SECONDS, self._report_state)

    def _read_state(self) -> None:
        fullest: dict[str, int] = {}
        for port in self._ports:
            queued = port.read_state()
            if queued is not None:
                label = str(port.endpoint)
                fullest[label] = max(queued, fullest.get(label, 0))
        for label, octets in fullest.items():
            self._families.queue_bytes.labels(label).set(octets)


class _Families:
    """The listener's metrics.  `address` is where sockets are bound: as many values as the settings have.

    Counters are those of all sockets of an address together, gauges those of one.
    """

    def __init__(self, metrics: Metrics) -> None:
        def counter(name: str, documentation: str) -> Counter:
            return metrics.counter(f"listen_{name}_total", documentation, ("address",))

        def gauge(name: str, documentation: str) -> Gauge:
            return metrics.gauge(f"listen_{name}", documentation, ("address",))

        self.dropped_datagrams = 0
        """Sum of `kernel_drops` over all sockets."""
        self.datagrams = counter("datagrams", "Datagrams read from the socket.")
        self.octets = counter("bytes", "Payload octets read from the socket.")
        self.batches = counter("batches", "Batches handed to the next stage.")
        self.kernel_drops = counter(
            "kernel_drops", "Datagrams the kernel dropped at the socket: full receive buffer, or a wrong checksum."
        )
        self.truncated = counter("truncated", "Datagrams dropped because they were larger than UDP allows.")
        self.errors = counter("errors", "Reads that failed.")
        self.buffer_bytes = gauge(
            "receive_buffer_bytes", "Receive buffer granted to a socket, in the unit of the setting."
        )
        self.queue_bytes = gauge(
            "receive_queue_bytes",
            "Kernel memory that waiting datagrams take, overhead included; of the fullest socket of the address.",
        )


class _UdpSocket:
    """One socket of an address: when it is read, and what it adds to the metrics."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        reader: Reader,
        offer: Offer,
        clock_us: Clock,
        families: _Families,
        pause_seconds: float,
    ) -> None:
        self.sock = sock
        self.endpoint = Endpoint(*sock.getsockname()[:2])
        self._reader = reader
        self._offer = offer
        self._clock_us = clock_us
        self._pause_seconds = pause_seconds
        self._loop = asyncio.get_running_loop()
        self._waiting = False
        """True while the event loop watches the socket for readiness; else a timer is set, or it is paused."""
        self._timer: asyncio.Handle | None = None
        self._drops_total = 0
        self._families = families
        label = str(self.endpoint)
        self._datagrams = families.datagrams.labels(label)
        self._bytes = families.octets.labels(label)
        self._batches = families.batches.labels(label)
        self._kernel_drops = families.kernel_drops.labels(label)
        self._truncated = families.truncated.labels(label)
        self._errors = families.errors.labels(label)

    def start(self) -> None:
        """Watch the socket."""
        self._loop.add_reader(self.sock, self._turn)
        self._waiting = True

    def pause(self) -> None:
        """Stop reading; what arrives waits in the kernel."""
        if self._waiting:
            self._loop.remove_reader(self.sock)
            self._waiting = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def drain(self, until_us: int) -> None:
        """Pass on what arrived before `until_us` (µs since 1970 UTC), letting the loop run between batches."""
        for _ in range(DRAIN_TURNS):
            try:
                received = self._reader.read(self.sock, self._clock_us())
            except OSError as error:
                self._failed(error)
                break
            if received is None:
                break
            self._hand_over(received)
            times = received.datagrams.time_received_us
            if len(times) and times[-1] > until_us:
                break
            await asyncio.sleep(0)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def read_state(self) -> int | None:
        """Count the kernel's drops; return the octets that wait in its queue, None if unknown."""
        state = memory_state(self.sock)
        if state is None:
            return None
        self._count_drops(state[1])
        return state[0]

    def _turn(self) -> None:
        """Read once and decide when to read again."""
        self._timer = None
        try:
            received = self._reader.read(self.sock, self._clock_us())
        except OSError as error:
            self._failed(error)
            self._read_again(ERROR_PAUSE_SECONDS)
            return
        if received is None:
            self._await_readiness()
            return
        # Done before passing on: if the next stage raises, reading continues.
        self._read_again(0.0 if received.full else self._pause_seconds)
        self._hand_over(received)

    def _await_readiness(self) -> None:
        if not self._waiting:
            self._loop.add_reader(self.sock, self._turn)
            self._waiting = True

    def _read_again(self, seconds: float) -> None:
        if seconds > 0:
            self.pause()
            self._timer = self._loop.call_later(seconds, self._turn)
        elif not self._waiting:
            self._timer = self._loop.call_soon(self._turn)
        # Otherwise readiness is reported again as long as datagrams wait.

    def _hand_over(self, received: Received) -> None:
        datagrams = received.datagrams
        if received.drops_total != NO_TOTAL:
            self._count_drops(received.drops_total)
        if received.truncated:
            self._truncated.inc(received.truncated)
            _log.sampled("datagrams larger than UDP allows were dropped", key=self.endpoint)
        if not len(datagrams):
            return
        self._datagrams.inc(len(datagrams))
        self._bytes.inc(received.octets)
        self._batches.inc()
        self._offer(datagrams)

    def _count_drops(self, total: int) -> None:
        """Add the growth of the kernel's total, which has 32 bits; a late one, from before, adds nothing."""
        growth = (total - self._drops_total) & 0xFFFF_FFFF
        if 0 < growth < 2**31:
            self._drops_total = total
            self._kernel_drops.inc(growth)
            self._families.dropped_datagrams += growth
            _log.sampled(
                "the kernel drops datagrams: the receive buffer is full",
                key=self.endpoint,
                drops_total=total,
                remedy="raise listen.receive_buffer_bytes and net.core.rmem_max",
            )

    def _failed(self, error: OSError) -> None:
        self._errors.inc()
        _log.sampled("reading failed", key=self.endpoint, error=error)


def _pause_seconds(wanted: float, granted: int) -> float:
    """Return how long an emptied socket may stay unread: no longer than it takes to fill a quarter of its buffer.

    `granted` octets count once here and twice in the kernel (`granted_bytes`), hence the half.
    """
    pause = min(wanted, granted / 2 / FILL_BYTES_PER_SECOND)
    return pause if pause >= SHORTEST_PAUSE_SECONDS else 0.0
