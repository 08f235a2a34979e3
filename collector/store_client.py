"""A client of the store for a stage that queries it repeatedly."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from clickhouse_connect.driver import Client


class KeptClient:
    """One client, opened when first needed, closed after an error, and opened again with the next use.

    Everything blocks; for one thread at a time.  `connect` opens a client with the service's database selected.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return self._client is not None

    @contextlib.contextmanager
    def use(self) -> Iterator[Client]:
        """Yield the client, for a `with` statement: an error in it closes the client.  Raises what `connect` does."""
        client = self._client = self._client or self._connect()
        try:
            yield client
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Release the store.  Does not raise: a broken connection may refuse even that."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()
