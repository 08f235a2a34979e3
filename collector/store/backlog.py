"""Rows of one table that wait in memory."""

from __future__ import annotations

from collections import deque

import pyarrow as pa

from schemas.column import Table


class Backlog:
    """Batches of one table that wait, oldest first."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows = 0
        self.since = 0.0
        """When the oldest arrived, by the monotonic clock."""
        self._batches: deque[tuple[float, pa.RecordBatch]] = deque()

    def add(self, batch: pa.RecordBatch, now: float) -> None:
        """Put a batch behind the others."""
        if not self._batches:
            self.since = now
        self._batches.append((now, batch))
        self.rows += batch.num_rows

    def take(self, limit: int) -> list[pa.RecordBatch]:
        """Remove the oldest batches with the same columns, of at most `limit` rows in all; a longer one is cut."""
        taken: list[pa.RecordBatch] = []
        room = limit
        while self._batches and room > 0:
            arrived, batch = self._batches[0]
            if taken and batch.schema.names != taken[0].schema.names:
                break
            if batch.num_rows > room:
                if taken:
                    break
                self._batches[0] = (arrived, batch.slice(room))
                batch = batch.slice(0, room)
            else:
                self._batches.popleft()
            taken.append(batch)
            room -= batch.num_rows
        self.rows -= limit - room
        self.since = self._batches[0][0] if self._batches else 0.0
        return taken
