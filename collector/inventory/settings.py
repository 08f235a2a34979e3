"""Settings of the inventory: which sources, how often they are polled, and how their answers are used."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

Address = IPv4Address | IPv6Address

PORTS_LIBVIRT = {"ssh": 22, "libssh": 22, "libssh2": 22, "tcp": 16509, "tls": 16514}
PORT_OVSDB = 6640


def port_of(url: str) -> int:
    """Return the port in a URL, else 0.  One that is not valid is reported where it is used."""
    try:
        return urlsplit(url).port or 0
    except ValueError:
        return 0


class SourceSettings(BaseModel, frozen=True, extra="forbid"):
    """What all sources have in common."""

    poll_seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How often everything is read again; events, where the source has them, come on top."""
    deadline_seconds: Annotated[float, Field(gt=0, le=3_600)] = 10.0
    """A call that takes longer is given up: the last answer stays in use and its age grows."""

    @property
    def every_seconds(self) -> float:
        """How often it is read, for whatever reason."""
        return self.poll_seconds

    @property
    def ports(self) -> frozenset[int] | None:
        """TCP ports that it connects to; None where they are not known beforehand."""
        return frozenset()


class HostSourceSettings(SourceSettings, frozen=True, extra="forbid"):
    """What sources of a single hypervisor have in common."""

    host: str = ""
    """Name of the hypervisor; empty = as it calls itself."""
    exporters: tuple[Address, ...] = ()
    """Addresses from which this hypervisor exports, beyond those that the source states itself: sFlow agent address,
    sender address.  They identify the switch that saw a packet."""
    counters_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """How often counters of interfaces are read into `interface_counters`; 0 = never."""

    @property
    def every_seconds(self) -> float:
        """How often it is read, for whatever reason."""
        return min(self.poll_seconds, self.counters_seconds) if self.counters_seconds else self.poll_seconds


class LibvirtSettings(HostSourceSettings, frozen=True, extra="forbid"):
    """One libvirt daemon, read only."""

    uri: str = "qemu:///system"
    """Connection URI, such as `qemu:///system`, `qemu+ssh://root@hv1/system`, `qemu+tls://hv1/system`."""
    counters_seconds: Annotated[float, Field(ge=0, le=86_400)] = 10.0
    """How often the counters of all virtual interfaces are read into `interface_counters`; 0 = never."""
    guest_agent: bool = False
    """Ask the guest agents for addresses, too: they answer slowly, or never where none runs.  libvirt allows this only
    on connections that may change domains, so with this the connection is not read-only."""

    @property
    def transport(self) -> str:
        """`ssh` of qemu+ssh://host/system; empty where there is none."""
        return urlsplit(self.uri).scheme.partition("+")[2]

    @property
    def ports(self) -> frozenset[int] | None:
        if self.transport == "ext":
            return None
        usual = PORTS_LIBVIRT.get(self.transport, PORTS_LIBVIRT["tls"])
        return frozenset({port_of(self.uri) or usual}) if urlsplit(self.uri).hostname else frozenset()


class OvsdbSettings(HostSourceSettings, frozen=True, extra="forbid"):
    """One Open vSwitch database."""

    remote: str = "unix:/run/openvswitch/db.sock"
    """`unix:/path/db.sock`, `tcp:192.0.2.11:6640` or `ssl:192.0.2.11:6640`."""
    private_key_file: Path | None = None
    certificate_file: Path | None = None
    ca_file: Path | None = None
    """For ssl: key and certificate of this service, and the authority that signed the database's."""
    counters_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """How often interface statistics go into `interface_counters`; 0 = never, since sFlow brings the same figures."""

    @property
    def ports(self) -> frozenset[int]:
        kind, _, where = self.remote.partition(":")
        return frozenset() if kind == "unix" else frozenset({port_of(f"{kind}://{where}") or PORT_OVSDB})


class OpenstackSettings(SourceSettings, frozen=True, extra="forbid"):
    """One OpenStack cloud."""

    poll_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    deadline_seconds: Annotated[float, Field(gt=0, le=3_600)] = 120.0
    """Listing a hundred thousand ports takes many pages."""
    cloud: str = "openstack"
    """Name in clouds.yaml; credentials stand there, or in the OS_ variables."""
    config_file: Path | None = None
    """clouds.yaml to use; empty = where openstacksdk looks by itself."""
    full_seconds: Annotated[float, Field(gt=0, le=604_800)] = 600.0
    """How often everything is listed again; in between, only what changed, where the API states it."""

    @property
    def ports(self) -> None:
        """None: the cloud's catalogue has its endpoints."""
        return None


class StaticSettings(SourceSettings, frozen=True, extra="forbid"):
    """A file of the operator's own."""

    poll_seconds: Annotated[float, Field(gt=0, le=86_400)] = 2.0
    """How often the file is checked for changes."""
    deadline_seconds: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """A file of a hundred thousand interfaces takes several seconds."""
    file: Path
    """TOML or CSV, by its extension; see docs/inventory.md."""


class InventorySettings(BaseModel, frozen=True, extra="forbid"):
    """Who is who."""

    libvirt: tuple[LibvirtSettings, ...] = ()
    ovsdb: tuple[OvsdbSettings, ...] = ()
    openstack: tuple[OpenstackSettings, ...] = ()
    static: tuple[StaticSettings, ...] = ()

    @property
    def sources(self) -> list[tuple[str, SourceSettings]]:
        """Each with the name of its kind, in the order in which they stand above."""
        each = ((name, getattr(self, name)) for name in type(self).model_fields)
        return [(name, one) for name, some in each if isinstance(some, tuple) for one in some]

    in_band: bool = True
    """Use what exporters state of their own interfaces: sFlow host structures, port names."""
    host_names: Literal["short", "full"] = "short"
    """`short`: hosts are identified by the first label of their name, so `hv1` and `hv1.example.com` are one.  `full`:
    for names whose first labels repeat."""
    start_seconds: Annotated[float, Field(ge=0, le=600)] = 5.0
    """Decoding waits this long at the start for the first answer of every source; datagrams queue meanwhile."""
    history_seconds: Annotated[float, Field(ge=0, le=604_800)] = 3_900.0
    """How long an ended mapping is kept for flows that arrive late: more than an hour, the longest usual active
    timeout."""
    grace_seconds: Annotated[float, Field(ge=0, le=60)] = 3.0
    """A sample may arrive this long after its interface has gone, or before it was known: sFlow agents hold samples for
    up to a second, events are delayed."""
    name_unknown_macs: bool = True
    """Give traffic from a VM's port with another MAC address than the VM's the name of that VM: a VM that runs VMs or
    containers of its own sends it, and one that forges addresses.  False leaves it unnamed."""
    write_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """How often each mapping that still holds is confirmed in table `inventory`."""
    interfaces: Annotated[int, Field(ge=1, le=10_000_000)] = 500_000
    """Interfaces kept at most, including ended ones that are still needed; more are left out and counted."""
