"""How this stage gets off the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Call(Protocol):
    """Runs a function on a worker thread of the stage, one at a time."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Return what the function returns, or raise what it raises."""
