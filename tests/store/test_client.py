"""The client that a stage keeps: opened once, and opened again after an error."""

from typing import Any

import pytest

from collector.store_client import KeptClient


class Connection:
    """As much of the driver's client as is needed: one whose `close` may fail, as on a broken connection."""

    def __init__(self, *, broken: bool) -> None:
        self.broken = broken
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        if self.broken:
            raise OSError("gone")


@pytest.mark.parametrize("broken", [False, True])
def test_an_error_closes_the_client_and_the_next_use_opens_another(broken: bool) -> None:
    made: list[Any] = []

    def connect() -> Any:
        made.append(Connection(broken=broken))
        return made[-1]

    kept = KeptClient(connect)
    assert not kept.is_open
    for _ in range(2):
        with kept.use() as client:
            assert client is made[0]
    with pytest.raises(ValueError, match="the query"), kept.use():
        raise ValueError("the query")
    assert (kept.is_open, made[0].closed) == (False, 1)

    with kept.use() as client:
        assert client is made[1]
    kept.close()
    kept.close()
    assert (len(made), made[1].closed, kept.is_open) == (2, 1, False)


def test_a_store_that_cannot_be_reached_leaves_nothing_open() -> None:
    def connect() -> Any:
        raise ConnectionRefusedError

    kept = KeptClient(connect)
    with pytest.raises(ConnectionRefusedError), kept.use():
        pass
    assert not kept.is_open
