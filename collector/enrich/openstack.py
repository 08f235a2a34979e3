"""OpenStack as a source of the inventory: ports and networks of Neutron, servers and hypervisors of Nova, projects of
Keystone.

Neutron is needed; what else is missing or forbidden is done without, and said once.  An administrator sees all
projects, hosts and segmentation ids; others see what is their own.

Everything is listed in full every `full_seconds`.  Between, only changes of ports, networks and servers are read (see
`openstack_lists.py`), and projects when one turns up that is not known; hypervisors are read in full listings only.
"""

from __future__ import annotations

import threading
import time

from collector.enrich.openstack_client import Client, RefusedError
from collector.enrich.openstack_lists import Mirror, Servers
from collector.enrich.openstack_rows import (
    NETWORK_FIELDS,
    PORT_FIELDS,
    interfaces,
    read_hypervisor,
    read_network,
    read_port,
)
from collector.enrich.settings import OpenstackSettings
from collector.enrich.source import Host, Rank, Report, SourceError
from collector.log import get_log
from schemas.text import clean

_log = get_log("openstack")


class Openstack:
    """One cloud; follows `collector.enrich.source.Source`."""

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
        """Projects of ports that had no name when all were listed: they are not asked for again until the next time."""
        self._hosts: tuple[Host, ...] = ()
        self._report: Report | None = None
        self._full_at = 0.0
        """When everything is listed again; monotonic seconds."""
        self._missing: dict[str, str] = {}
        """What this cloud does not give -> why, as it was logged."""

    def read(self) -> Report:
        """All interfaces of VMs and all hypervisors; the same object as before if nothing changed.  Raises SourceError,
        of which SourceSetupError where the cloud is not in clouds.yaml or its credentials there are not complete."""
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
        """Return False after `seconds`, or when interrupted: OpenStack tells nobody of changes."""
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
        # Not kept if this fails half way: the next read would not find the changes again that this one had read.
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
        except RefusedError as refused:
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
        except RefusedError as refused:
            self._do_without("projects", refused, "they are shown by their ids")
            self._projects = {}
        self._nameless = wanted - self._projects.keys()
        return self._projects != before

    def _list_projects(self) -> dict[str, str]:
        """Names by id.  Raises RefusedError, SourceError."""
        try:
            items = self._client.listing("identity", "/projects", "projects", {})
            self._found("names of other projects")
        except RefusedError as refused:
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
        except RefusedError as refused:
            self._do_without("hypervisors", refused, "their addresses are not known")
            items = []
        hosts = (read_hypervisor(item) for item in items)
        self._hosts = tuple(host for host in hosts if host is not None)
        return self._hosts != before

    def _do_without(self, what: str, why: RefusedError | str, effect: str) -> None:
        """Say once that the cloud does not give something."""
        if self._missing.get(what) != str(why):
            self._missing[what] = str(why)
            _log.warning(f"does without {what}: {effect}", source=self.name, why=str(why))

    def _found(self, what: str) -> None:
        if self._missing.pop(what, None) is not None:
            _log.info(f"has {what} now", source=self.name)
