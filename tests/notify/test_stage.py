"""The stage on real threads, against real HTTP: queues, retries, the dead beside the living, the stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from collector.notify.receiver import NotifyError
from tests.notify.support import Endpoint, endpoint, group, loss, receiver, running

ROOT = Path(__file__).parents[2]


def titles(server: Endpoint) -> list[str]:
    return [request.json["title"].split(" → ")[0].split()[-1] for request in server.requests]


async def arrived(server: Endpoint, count: int = 1) -> None:
    """Wait until the server has so many more requests."""
    for _ in range(count):
        assert await asyncio.to_thread(server.arrived.acquire, timeout=30)


def test_a_group_goes_to_each_of_its_receivers_once() -> None:
    async def main() -> None:
        receivers = {name: receiver(f"json://{server.address}/{name}") for name in ("ops", "boss", "unused")}
        async with running(receivers) as stage:
            stage.delivery.offer(group(to=("ops", "boss", "ops")))
            await stage.until(2)
        assert sorted(stage.reported) == [("g", "boss", True), ("g", "ops", True)]
        assert stage.count("ops", "delivered") == stage.count("boss", "delivered") == 1
        assert stage.count("unused", "delivered") == 0

    with endpoint() as server:
        asyncio.run(main())
    assert sorted(request.path for request in server.requests) == ["/boss", "/ops"]


def test_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        async with running({"ops": receiver(f"json://{server.address}/")}) as stage:
            for number in range(5):
                stage.delivery.offer(group(loss(number), key=str(number)))
            assert stage.delivery.waiting == {"ops": 5}
            assert stage.metrics.value("notifications_queued", receiver="ops") == 5
            await stage.until(5)
            assert stage.metrics.value("notifications_queued", receiver="ops") == 0
        assert [key for key, _, _ in stage.reported] == ["0", "1", "2", "3", "4"]

    with endpoint() as server:
        asyncio.run(main())
    assert titles(server) == [f"web-{number}" for number in range(5)]


def test_tried_again_until_it_is_taken() -> None:
    async def main() -> None:
        async with running({"ops": receiver(f"json://{server.address}/")}) as stage:
            stage.delivery.offer(group())
            await stage.until(1)
        assert stage.reported == [("g", "ops", True)]
        assert stage.count("ops", "delivered") == 1
        assert stage.metrics.value("notification_retries_total", receiver="ops") == 3

    with endpoint(500, 429, 503) as server:
        asyncio.run(main())
    assert len(server.requests) == 4


def test_not_tried_again_where_it_is_of_no_use(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with running({"refusing": receiver(f"json://{server.address}/pathsecret")}) as stage:
            stage.delivery.offer(group(key="first", to=["refusing"]))
            stage.delivery.offer(group(key="second", to=["refusing"]))
            await stage.until(2)
        assert stage.reported == [("first", "refusing", False), ("second", "refusing", True)]
        assert (stage.count("refusing", "refused"), stage.count("refusing", "delivered")) == (1, 1)
        assert stage.metrics.value("notification_retries_total", receiver="refusing") == 0

    with endpoint(401) as server, caplog.at_level(logging.INFO, "vmflow"):
        asyncio.run(main())
    assert len(server.requests) == 2
    ours = [record for record in caplog.records if record.name == "vmflow.notify"]
    assert [record.getMessage() for record in ours] == ["alert given up"]
    assert ours[0].vmflow_fields == {"key": "refusing", "group": "first", "alerts": 1, "reason": "HTTP 401"}


def test_given_up_when_it_is_too_old() -> None:
    async def main() -> None:
        settings = receiver(f"json://{server.address}/", retry_total_seconds=0.05)
        async with running({"ops": settings}) as stage:
            stage.delivery.offer(group())
            await stage.until(1)
        assert stage.reported == [("g", "ops", False)]
        assert stage.count("ops", "expired") == 1
        retries.append(stage.metrics.value("notification_retries_total", receiver="ops"))

    retries: list[float | None] = []
    with endpoint(*[500] * 1000) as server:
        asyncio.run(main())
    assert retries == [len(server.requests) - 1]


def test_the_dead_do_not_hold_the_living() -> None:
    """One does not answer at all, one refuses connections; the third gets all of its messages meanwhile."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        receivers = {
            "hangs": receiver(f"json://{hanging.address}/", timeout_seconds=30),
            "refuses": receiver(f"json://127.0.0.1:{port}/"),
            "lives": receiver(f"json://{living.address}/", per_minute=100),
        }
        async with running(receivers, drain_seconds=0.2) as stage:
            for number in range(50):
                stage.delivery.offer(group(key=str(number), to=("hangs", "refuses", "lives")))
            await stage.until(50)
            assert stage.reported == [(str(number), "lives", True) for number in range(50)]
            assert stage.delivery.waiting == {"hangs": 50, "refuses": 50, "lives": 0}
            hanging.open_gate.set()
        for name in ("hangs", "refuses"):
            # Whatever happened until the stop: nothing is lost without being counted.
            results = [stage.count(name, result) for result in ("delivered", "refused", "expired", "dropped", "left")]
            assert sum(value or 0 for value in results) == 50

    with endpoint(gate_open=False) as hanging, endpoint() as living:
        asyncio.run(main())
    assert len(living.requests) == 50


def test_a_late_answer_counts_and_nothing_is_sent_twice() -> None:
    async def main() -> None:
        async with running({"ops": receiver(f"json://{server.address}/")}) as stage:
            worker = stage.delivery._workers["ops"]
            worker._settings = worker._settings.model_copy(update={"timeout_seconds": 0.05})  # of the worker only
            stage.delivery.offer(group())
            await arrived(server)
            while not stage.metrics.value("notification_retries_total", receiver="ops"):  # noqa: ASYNC110 - a metric
                await asyncio.sleep(0.01)
            server.open_gate.set()
            await stage.until(1)
        assert stage.reported == [("g", "ops", True)]

    with endpoint(gate_open=False) as server:
        asyncio.run(main())
    assert len(server.requests) == 1


def test_a_full_queue_drops_the_newest_and_counts_it() -> None:
    async def main() -> None:
        async with running({"ops": receiver(f"json://{server.address}/", queue_groups=3)}) as stage:
            for number in range(5):
                stage.delivery.offer(group(key=str(number)))
            assert stage.reported == [("3", "ops", False), ("4", "ops", False)]
            await stage.until(5)
        assert stage.reported[2:] == [(str(number), "ops", True) for number in range(3)]
        assert (stage.count("ops", "dropped"), stage.count("ops", "delivered")) == (2, 3)

    with endpoint() as server:
        asyncio.run(main())


def test_not_more_than_allowed_in_a_minute() -> None:
    async def main() -> None:
        async with running({"ops": receiver(f"json://{server.address}/", per_minute=2)}) as stage:
            for number in range(3):
                stage.delivery.offer(group(key=str(number)))
            await stage.until(2)
        assert stage.reported == [("0", "ops", True), ("1", "ops", True)]
        assert (stage.count("ops", "delivered"), stage.count("ops", "left")) == (2, 1)

    with endpoint() as server:
        asyncio.run(main())
    assert len(server.requests) == 2


def test_the_stop_sends_what_waits() -> None:
    async def main() -> None:
        async with running({"ops": receiver(f"json://{server.address}/")}) as stage:
            for number in range(10):
                stage.delivery.offer(group(key=str(number)))
        assert [ok for _, _, ok in stage.reported] == [True] * 10

    with endpoint() as server:
        asyncio.run(main())
    assert len(server.requests) == 10


def test_the_stop_leaves_what_cannot_be_sent() -> None:
    """Neither delivered nor given up: the core offers it again after the next start."""

    async def main() -> None:
        settings = receiver(f"json://{server.address}/", min_retry_seconds=600, max_retry_seconds=600)
        async with running({"ops": settings}) as stage:
            stage.delivery.offer(group(key="a"))
            stage.delivery.offer(group(key="b"))
            await arrived(server)
        assert stage.reported == []
        assert stage.count("ops", "left") == 2

    with endpoint(500, 500) as server:
        asyncio.run(main())
    assert len(server.requests) == 1


def test_a_receiver_that_is_not_set_is_counted_and_reported() -> None:
    async def main() -> None:
        async with running({"ops": receiver(f"json://{server.address}/")}) as stage:
            stage.delivery.offer(group(to=("opps",)))
            assert stage.reported == [("g", "opps", False)]
        assert stage.count("other", "unknown") == 1

    with endpoint() as server:
        asyncio.run(main())
    assert server.requests == []


def test_what_listens_may_fail() -> None:
    async def main() -> None:
        async with running({"ops": receiver(f"json://{server.address}/")}) as stage:
            listened = stage.delivery._workers["ops"]._on_delivered

            def fails(*args: object) -> None:
                listened(*args)  # type: ignore[arg-type]
                raise ValueError("the store is full")

            stage.delivery._workers["ops"]._on_delivered = fails
            stage.delivery.offer(group(key="a"))
            stage.delivery.offer(group(key="b"))
            await stage.until(2)
        assert stage.count("ops", "delivered") == 2

    with endpoint() as server:
        asyncio.run(main())


def test_a_receiver_that_cannot_be_used_keeps_the_service_from_starting() -> None:
    async def main() -> None:
        async with running({"ops": receiver("nosuchservice://token")}):
            pass

    with pytest.raises(NotifyError, match=r"notify\.receivers\.ops"):
        asyncio.run(main())


def test_no_receivers_is_fine() -> None:
    async def main() -> None:
        async with running({}) as stage:
            stage.delivery.offer(group(to=()))
        assert stage.reported == []

    asyncio.run(main())


def test_apprise_is_loaded_only_where_it_is_used() -> None:
    code = (
        "import sys\n"
        "from collector.notify.stage import receivers\n"
        "from collector.notify.settings import NotifySettings\n"
        "made = receivers(NotifySettings.model_validate({'receivers': {'am': {'kind': 'alertmanager', 'url': 'http://a'}}}))\n"
        "made['am'].open()\n"
        "print('apprise' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
