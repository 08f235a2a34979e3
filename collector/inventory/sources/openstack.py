"""OpenStack as a source of the inventory: ports and networks of Neutron, servers and hypervisors of Nova, projects of
Keystone.

Neutron is required; anything else that is missing or forbidden is done without, and logged once.  An administrator sees
all projects, hosts and segmentation ids; other users see their own.

Everything is listed in full every `full_seconds`.  In between, only changes of ports, networks and servers are read
(`Mirror`, `Servers`), and projects when an unknown one turns up; hypervisors are read in full listings only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from collector.inventory.settings import OpenstackSettings
from collector.inventory.sources.base import Host, Report, SourceError
from collector.inventory.sources.openstack_api import PAGE, Client, Item, OpenstackRefusedError
from collector.inventory.sources.openstack_rows import (
    NETWORK_FIELDS,
    PORT_FIELDS,
    Server,
    interfaces,
    read_hypervisor,
    read_network,
    read_port,
    read_server,
)
from collector.log import get_log
from schemas.inventory import Rank
from schemas.text import clean

OVERLAP = timedelta(minutes=2)
"""How far before the newest known change servers are listed again: the clocks of Nova's hosts differ a little, and a
change has the time when it began, not when it became visible."""
IDS_PER_CALL = 100
"""Ids in one query: 4,000 characters, while servers accept URLs of 8,000."""
MANY_CHANGES = 2_000
"""Number of changed objects from which a full listing is cheaper than asking for them by id."""

T = TypeVar("T")


class Mirror(Generic[T]):
    """All Neutron objects of one kind, as of the last `refresh`, kept so that only changes must be read.

    A listing of ids with revision numbers, which Neutron raises with every change, comes first, then those that are new
    or changed.  Its filter `changed_since` does not report deletions, and a server that validates filters (as all do by
    default since Rocky) refuses it.
    """

    def __init__(self, client: Client, kind: str, fields: tuple[str, ...], read: Callable[[Item], T | None]) -> None:
        """`kind` is the plural in paths and answers: `ports`.  Objects for which `read` returns None are left out."""
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
        # Nothing fails from here on: what is kept is always from one time.
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
        """Return ids that are new or changed, and those that are gone; None if this cannot be found out, or if they are
        many."""
        items = self._get({"fields": ["id", "revision_number"]})
        now = {str(item.get("id")): item.get("revision_number") for item in items}
        if None in now.values():
            return None  # this server has no revision numbers
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
    """All Nova servers, as of the last `refresh`; read with `changes-since`, which reports deleted servers, too."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._newest = ""
        """Time of the newest change known, by Nova's clock and in its form; empty = none known."""
        self.objects: dict[str, Server] = {}
        self.limited = ""
        """Why only servers of one project are seen; empty if all are."""

    def refresh(self, *, full: bool) -> bool:
        """Read what changed, or everything; return whether anything did.  Raises OpenstackRefusedError, SourceError."""
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
        except OpenstackRefusedError as refused:
            if refused.status != 403:
                raise
            found = self._list(query)
            self.limited = str(refused)
        return found

    def _list(self, query: dict[str, str]) -> dict[str, Server]:
        pages = self._client.pages("compute", "/servers/detail", "servers", {**query, "limit": PAGE})
        return {str(item.get("id")): read_server(item) for page in pages for item in page}


def _before(time_text: str) -> str:
    """Return a time of Nova's, `OVERLAP` earlier; empty if it is not a time."""
    try:
        moment = datetime.fromisoformat(time_text)
    except ValueError:
        return ""
    return (moment - OVERLAP).strftime("%Y-%m-%dT%H:%M:%SZ")


_log = get_log("openstack")


class Openstack:
    """One cloud; follows `collector.inventory.sources.base.Source`."""

    def __init__(self, settings: OpenstackSettings) -> None:
        """Raises SourceSetupError if openstacksdk is missing; clouds.yaml is read with the first answer."""
        self.rank = Rank.OPENSTACK
        self.name = f"openstack {settings.cloud}"
        self._full_seconds = settings.full_seconds
        self._stopping = threading.Event()
        self._busy = threading.Lock()
        """Held during a call: one that was given up may still wait for a name server when the next one comes."""
        self._closing = False
        self._client = Client(self.name, settings, self._stopping)
        self._ports = Mirror(self._client, "ports", PORT_FIELDS, read_port)
        self._networks = Mirror(self._client, "networks", NETWORK_FIELDS, read_network)
        self._servers = Servers(self._client)
        self._projects: dict[str, str] = {}
        self._nameless: set[str] = set()
        """Projects of ports that had no name when all were listed: they are not asked for again until the next
        listing."""
        self._hosts: tuple[Host, ...] = ()
        self._report: Report | None = None
        self._full_at = 0.0
        """When everything is listed again; monotonic seconds."""
        self._missing: dict[str, str] = {}
        """What this cloud does not provide → why, as it was logged."""

    def read(self) -> Report:
        """Return all interfaces of VMs and all hypervisors; the same object as before if nothing changed.  Raises
        SourceError, in particular SourceSetupError if the cloud is not in clouds.yaml or its credentials there are
        incomplete."""
        if not self._busy.acquire(blocking=False):
            raise SourceError(f"{self.name}: an earlier call still waits for an answer")
        try:
            self._client.begin()
            return self._read()
        except SourceError:
            self._client.close()
            raise
        finally:
            if self._closing:
                self._client.close()
                self._closing = False
            self._busy.release()

    def wait(self, seconds: float) -> bool:
        """Return False after `seconds`, or when interrupted: OpenStack does not notify of changes."""
        self._stopping.wait(seconds)
        return False

    def interrupt(self) -> None:
        """End a wait under way, and a read at its next call to the cloud."""
        self._stopping.set()

    def close(self) -> None:
        """Close connections and forget the token; a call that still hangs does so when it ends."""
        if not self._busy.acquire(blocking=False):
            self._closing = True
            return
        try:
            self._client.close()
        finally:
            self._busy.release()

    def _read(self) -> Report:
        begun = time.monotonic()
        full = begun >= self._full_at
        # Not kept if this fails halfway: the next read would not find the changes that this one had read.
        report, self._report = self._report, None
        # Ports first: what they refer to existed before them.
        changed = self._ports.refresh(full=full)
        changed |= self._networks.refresh(full=full)
        changed |= self._read_servers(full)
        changed |= self._read_projects(full)
        changed |= full and self._read_hosts()
        if changed or report is None:
            report = Report(
                interfaces=interfaces(
                    self._ports.objects.values(), self._networks.objects, self._servers.objects, self._projects
                ),
                hosts=self._hosts,
            )
        if full:
            self._full_at = begun + self._full_seconds
        self._report = report
        return report

    def _read_servers(self, full: bool) -> bool:
        if not full and "servers" in self._missing:
            return False
        try:
            changed = self._servers.refresh(full=full)
        except OpenstackRefusedError as refused:
            self._do_without("servers", refused, "VMs have no names")
            changed = bool(self._servers.objects)
            self._servers.clear()
        else:
            self._found("servers")
            if self._servers.limited:
                self._do_without("servers of other projects", self._servers.limited, "their VMs have no names")
            else:
                self._found("servers of other projects")
        return changed

    def _read_projects(self, full: bool) -> bool:
        named = self._projects.keys() | self._nameless
        wanted = {port.project for port in self._ports.objects.values()}
        wanted |= {server.project for server in self._servers.objects.values()}
        wanted.discard("")
        if not full and wanted <= named:
            return False
        before = self._projects
        try:
            self._projects = self._list_projects()
            self._found("projects")
        except OpenstackRefusedError as refused:
            self._do_without("projects", refused, "they are shown by their ids")
            self._projects = {}
        self._nameless = wanted - self._projects.keys()
        return self._projects != before

    def _list_projects(self) -> dict[str, str]:
        """Return names by id.  Raises OpenstackRefusedError, SourceError."""
        try:
            items = self._client.listing("identity", "/projects", "projects", {})
            self._found("names of other projects")
        except OpenstackRefusedError as refused:
            if refused.status != 403:
                raise
            items = self._client.listing("identity", "/auth/projects", "projects", {})
            self._do_without("names of other projects", refused, "they are shown by their ids")
        return {str(item.get("id")): clean(str(item.get("name") or "")) for item in items}

    def _read_hosts(self) -> bool:
        before = self._hosts
        try:
            items = self._client.listing("compute", "/os-hypervisors/detail", "hypervisors", {})
            self._found("hypervisors")
        except OpenstackRefusedError as refused:
            self._do_without("hypervisors", refused, "their addresses are not known")
            items = []
        hosts = (read_hypervisor(item) for item in items)
        self._hosts = tuple(host for host in hosts if host is not None)
        return self._hosts != before

    def _do_without(self, what: str, why: OpenstackRefusedError | str, effect: str) -> None:
        """Log once that the cloud does not provide something."""
        if self._missing.get(what) != str(why):
            self._missing[what] = str(why)
            _log.warning(f"does without {what}: {effect}", source=self.name, why=str(why))

    def _found(self, what: str) -> None:
        if self._missing.pop(what, None) is not None:
            _log.info(f"has {what} now", source=self.name)
