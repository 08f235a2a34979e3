"""What a failed insert holds is freed at once, without waiting for Python's own pass over cycles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from collector.store.errors import free_rows_of


@pytest.fixture(autouse=True)
def _no_passes_of_their_own() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Insert:
    """Fails as a driver does: an error that is tried again after, then one that is raised, both parts of cycles."""

    def __init__(self) -> None:
        self.bodies: list[weakref.ref[np.ndarray]] = []

    def attempt(self) -> None:
        body = np.zeros(1000)
        self.bodies.append(weakref.ref(body))
        try:
            raise ConnectionResetError
        except ConnectionResetError as error:
            behind = error  # the cycle: error, traceback, this frame
            raise OSError(len(body)) from behind

    def run(self) -> None:
        try:
            self.attempt()
        except OSError as error:
            swallowed = error
        self.attempt()
        raise AssertionError(swallowed)


def test_rows_of_a_failed_insert_are_freed_while_its_error_is_handled() -> None:
    insert = Insert()
    before, after, cause = [], [], None
    try:
        insert.run()
    except OSError as error:
        before = [body() is None for body in insert.bodies]
        free_rows_of(error)
        after = [body() is None for body in insert.bodies]
        cause = error.__cause__  # what went wrong can still be reported

    assert before == [False, False]
    assert after == [True, True]
    assert isinstance(cause, ConnectionResetError)
