"""What Neutron and Nova know, kept from one read to the next, so that only what changed has to be read.

- Neutron's objects: a listing of ids with revision numbers, which Neutron raises with every change, then those that are
  new or changed.  Its filter `changed_since` says nothing of deletions, and a server that validates filters (as all do
  by default since Rocky) refuses it.
- Nova's servers: `changes-since`, which tells of deleted servers, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from collector.enrich.openstack_client import PAGE, Client, Item, RefusedError
from collector.enrich.openstack_rows import Server, read_server

OVERLAP = timedelta(minutes=2)
"""How far before the newest known change servers are asked for again: the clocks of Nova's hosts differ a little, and
a change is told by the time when it began, not by when it could be seen."""
IDS_PER_CALL = 100
"""Ids in one query: 4,000 characters, while servers take addresses of 8,000."""
MANY_CHANGES = 2_000
"""Changed objects from which a full listing is cheaper than asking for them by id."""

T = TypeVar("T")


class Mirror(Generic[T]):
    """All Neutron objects of one kind, as of the last `refresh`."""

    def __init__(self, client: Client, kind: str, fields: tuple[str, ...], read: Callable[[Item], T | None]) -> None:
        """`kind` is the plural in paths and answers: `ports`.  Objects of which `read` makes None are left out."""
        self._client = client
        self._kind = kind
        self._fields = list(fields)
        self._read = read
        self._revisions: dict[str, object] = {}
        """Of all objects, also of those that are left out."""
        self.objects: dict[str, T] = {}

    def refresh(self, *, full: bool) -> bool:
        """Read what changed, or everything; return whether anything may have.  Raises SourceError."""
        changed = None if full else self._compare()
        if changed is None:
            self._list()
            return True
        ids, gone = changed
        items: list[Item] = []
        for start in range(0, len(ids), IDS_PER_CALL):
            items += self._get({"id": ids[start : start + IDS_PER_CALL], "fields": self._fields})
        # Nothing fails from here on: what is kept is always of one time.
        for key in [*gone, *ids]:
            self._revisions.pop(key, None)
            self.objects.pop(key, None)
        self._keep(items)
        return bool(ids or gone)

    def _list(self) -> None:
        items: dict[str, tuple[object, T | None]] = {}
        query: dict[str, str | list[str]] = {"fields": self._fields, "limit": PAGE}
        for page in self._client.pages("network", f"/{self._kind}", self._kind, query):
            items.update((str(item.get("id")), (item.get("revision_number"), self._read(item))) for item in page)
        self._revisions = {key: revision for key, (revision, _) in items.items()}
        self.objects = {key: found for key, (_, found) in items.items() if found is not None}

    def _compare(self) -> tuple[list[str], list[str]] | None:
        """Ids that are new or changed, and those that are gone; None if that cannot be told, or if they are many."""
        items = self._get({"fields": ["id", "revision_number"]})
        now = {str(item.get("id")): item.get("revision_number") for item in items}
        if None in now.values():
            return None  # this server does not count revisions
        changed = [key for key, revision in now.items() if self._revisions.get(key) != revision]
        return None if len(changed) > MANY_CHANGES else (changed, [key for key in self._revisions if key not in now])

    def _keep(self, items: Iterable[Item]) -> None:
        for item in items:
            key = str(item.get("id"))
            self._revisions[key] = item.get("revision_number")
            found = self._read(item)
            if found is not None:
                self.objects[key] = found

    def _get(self, query: dict[str, Any]) -> list[Item]:
        return self._client.listing("network", f"/{self._kind}", self._kind, {**query, "limit": PAGE})


class Servers:
    """All Nova servers, as of the last `refresh`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._newest = ""
        """Time of the newest change known, by Nova's clock and in its form; empty = none known."""
        self.objects: dict[str, Server] = {}
        self.limited = ""
        """Why only servers of one project are seen; empty if all are."""

    def refresh(self, *, full: bool) -> bool:
        """Read what changed, or everything; return whether anything did.  Raises RefusedError, SourceError."""
        since = "" if full else _before(self._newest)
        found = self._read({"changes-since": since} if since else {})
        self._newest = max([self._newest, *(server.updated for server in found.values())])
        before = self.objects
        self.objects = {
            key: server for key, server in {**(before if since else {}), **found}.items() if not server.gone
        }
        return self.objects != before

    def clear(self) -> None:
        """Forget everything."""
        self._newest = ""
        self.objects = {}

    def _read(self, query: dict[str, str]) -> dict[str, Server]:
        try:
            found = self._list({**query, "all_tenants": "True"})
            self.limited = ""
        except RefusedError as refused:
            if refused.status != 403:
                raise
            found = self._list(query)
            self.limited = str(refused)
        return found

    def _list(self, query: dict[str, str]) -> dict[str, Server]:
        pages = self._client.pages("compute", "/servers/detail", "servers", {**query, "limit": PAGE})
        return {str(item.get("id")): read_server(item) for page in pages for item in page}


def _before(time_text: str) -> str:
    """A time of Nova's, `OVERLAP` earlier; empty if it is none."""
    try:
        moment = datetime.fromisoformat(time_text)
    except ValueError:
        return ""
    return (moment - OVERLAP).strftime("%Y-%m-%dT%H:%M:%SZ")
