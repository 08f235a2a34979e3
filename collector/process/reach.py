"""What the service must reach with its settings, and nothing else: files, directories, programs and TCP ports."""

from __future__ import annotations

import os
import pwd
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib.request import getproxies_environment

from pydantic import BaseModel

from collector import environment
from collector.inventory.settings import port_of
from collector.notify.receiver import NotifyError
from collector.notify.settings import ReceiverSettings
from collector.process.confine import ConfineError, Reach
from collector.settings import Settings
from decoders.kernel_cache import base_directory

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64")
"""Libraries, certificates of authorities, time zones, locales: the same on every machine, and no secrets."""

ETC = (
    "ca-certificates.conf", "crypto-policies", "gai.conf", "gnutls", "host.conf", "hosts", "ld.so.cache", "localtime",
    "mime.types", "nsswitch.conf", "os-release", "pki/ca-trust", "pki/tls/cert.pem", "pki/tls/certs",
    "pki/tls/openssl.cnf", "protocols", "resolv.conf", "services", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf",
    "timezone",
)  # fmt: skip
"""Files of /etc in which libraries find names, authorities and the time: not the whole directory, which holds
passwords."""

ETC_LIBVIRT = (
    "group", "libvirt/libvirt.conf", "passwd", "pki/CA", "pki/libvirt", "sasl2", "ssh/ssh_config", "ssh/ssh_config.d",
    "ssh/ssh_known_hosts",
)  # fmt: skip
"""What libvirt's client and ssh also read."""

PROC = (
    "cpuinfo", "filesystems", "loadavg", "meminfo", "self/auxv", "self/cgroup", "self/fd", "self/limits",
    "self/maps", "self/mountinfo", "self/mounts", "self/stat", "self/statm", "self/status", "self/task",
    "stat", "sys/kernel/osrelease", "sys/vm/max_map_count", "sys/vm/overcommit_memory", "sys/vm/swappiness", "uptime",
    "version",
)  # fmt: skip
"""Files from which the engine and the allocators choose their sizes.  Not /proc/self, which has environ and mem.  These
are in self/task, too, where the engine counts the time of each of its threads: it takes a refusal for a defect and
computes a stack trace, for 35 MB and a second.  environ has been emptied (`environment`), and mem cannot be read from
its start, as SQL would."""

SYS = ("devices/system/cpu", "devices/system/node", "fs/cgroup", "kernel/mm/transparent_hugepage")

DEVICES_READ = ("random", "urandom", "zero")

SHARED = frozenset(
    map(Path, ("/dev/shm", "/mnt", "/run", "/srv", "/tmp", "/usr/local", "/var/tmp"))  # noqa: S108 - they are not used
)
"""Directories that others also use: in these, only the service's own file is allowed, not the directory."""

NEVER = frozenset(
    map(
        Path,
        (
            "/", "/bin", "/boot", "/dev", "/etc", "/etc/ssl", "/etc/ssl/private", "/home", "/lib", "/lib64", "/opt",
            "/proc", "/root", "/sbin", "/sys", "/usr", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool",
        ),
    )
)  # fmt: skip
"""Like `SHARED`, and also not writable: write access there gives access to everything."""

PORT_HTTP, PORT_HTTPS = 80, 443
PORT_DNS = 53
"""For DNS answers that do not fit into a datagram."""
PORTS_APPRISE = {
    "amqp": 5672, "amqps": 5671, "aprs": 10152, "emby": 8096, "gntp": 23053, "growl": 23053, "hassio": 8123,
    "irc": 6667, "ircs": 6697, "kodi": 8080, "mqtt": 1883, "mqtts": 8883, "smpp": 2775, "smpps": 3550, "xbmc": 8080,
    "xmpp": 5222, "xmpps": 5222,
}  # fmt: skip
"""Ports of apprise services without a port in their URL; the others use HTTP(S), or are mail servers."""
PORTS_MAIL = (25, 465, 587)
PORTS_HTTP = {"http": PORT_HTTP, "https": PORT_HTTPS}
PORTS_STORE = {"http": 8123, "https": 8443}
PORT_SOCKS = 1080

LINKS = 40
"""The kernel follows as many."""

_FILE_VARIABLES = (
    "CURL_CA_BUNDLE", "OS_CACERT", "OS_CERT", "OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE", "OS_KEY",
    "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE",
)  # fmt: skip
"""Variables that name files to OpenSSL, requests and openstacksdk."""


def reach_of(settings: Settings, config: Path | None, temporary: Path) -> Reach:
    """Return what the service reaches with these settings, from `config` if there is such a file.  `temporary` is a
    directory of its own.

    Makes the directories that it will write to.  Raises ConfineError if it would write in one that is not its own.
    """
    write = _written(settings)
    read = set(_system()) | set(_python()) | set(_named(settings, config))
    execute: set[Path] = set()
    if settings.inventory.libvirt:
        read |= {Path("/etc", name) for name in ETC_LIBVIRT}
        read |= {home / ".config/libvirt" for home in _homes()} | {home / ".pki" for home in _homes()}
    for source in settings.inventory.libvirt:
        if source.transport in ("ssh", "ext"):
            execute |= {Path(path) for path in (*SYSTEM, "/bin", "/sbin")} | set(_paths_of(source.uri, "command"))
            read |= {home / ".ssh" for home in _homes()}
    return Reach(
        frozenset(read | set(settings.confine.read)),
        frozenset(write),
        temporary,
        frozenset(execute),
        frozenset(_bound(settings)),
        _connected(settings),
    )


def _system() -> Iterator[Path]:
    yield from map(Path, SYSTEM)
    for folder, names in (("/etc", ETC), ("/proc", PROC), ("/sys", SYS), ("/dev", DEVICES_READ)):
        for path in (Path(folder, name) for name in names):
            yield path
            yield from _behind(path)


def _python() -> Iterator[Path]:
    """Yield the paths of Python, its installed packages, and this project's own, which need not be installed."""
    places = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        places.add(site.getusersitepackages())
    # What PYTHONPATH and .pth files name.  Not the working directory, which may hold anything.
    places |= {place for place in sys.path if place.startswith("/") and Path(place) != Path.cwd()}
    ours = Path(__file__).resolve().parents[2]
    for place in (*map(Path, places), *(ours / package for package in ("collector", "decoders", "schemas"))):
        yield from _own(place)


def _named(settings: Settings, config: Path | None) -> Iterator[Path]:
    """Yield what the settings name, and what the files and URLs named there name in turn."""
    files = set(_files(settings))
    if config is not None:
        files.add(config)
    if settings.store.ca_file:
        files.add(Path(settings.store.ca_file))
    urls = [source.uri for source in settings.inventory.libvirt] + [url for _, url in _receivers(settings)]
    for url in urls:
        files |= set(_paths_of(url))
    for name in _FILE_VARIABLES:
        files |= {Path(path) for path in environment.variables().get(name, "").split(os.pathsep) if path}
    for source in settings.inventory.openstack:
        for file in [source.config_file] if source.config_file else _clouds():
            files.add(file)
            files |= set(_absolute_paths(file))
    for file in files:
        yield from _replaceable(file)


def _replaceable(file: Path) -> Iterator[Path]:
    """Yield a file and its directory, since people replace files; the same for the target of a link.

    Directories not reserved for such files are left out: if a file there is replaced, the service must be restarted.
    """
    if file.is_dir():
        yield from _own(file)
        return
    yield file
    yield from _own(file.parent)
    yield from _behind(file)


def _behind(path: Path) -> Iterator[Path]:
    """Yield the directories of a link's targets, step by step."""
    for _ in range(LINKS):
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()
        yield from _own(path.parent)


def _own(directory: Path) -> Iterator[Path]:
    """Yield the directory, unless others have files there, too."""
    directory = directory.resolve()
    if directory not in SHARED and not _others(directory):
        yield directory


def _others(directory: Path) -> bool:
    """Return whether a resolved directory holds so much else that access to it would defeat confinement."""
    if directory in NEVER or directory.parent == Path("/home"):
        return True
    # A service's user has its home there, which is its data directory.
    return directory in _homes() and not any(directory.is_relative_to(place) for place in ("/var", "/srv", "/opt"))


def _written(settings: Settings) -> set[Path]:
    """Return the directories that the service writes to; make those that are missing."""
    store = settings.store
    directories = {store.spool, base_directory()}
    if store.directory is not None:
        directories.add(store.directory)
    files = {settings.decode.template_file or (store.directory.parent / "x" if store.directory else None)}
    if settings.rollup.enabled:
        files.add(settings.rollup.key_file or store.spool.parent / "x")
    directories |= {file.parent for file in files if file is not None}
    for directory in directories:
        if _others(directory.resolve()):
            raise ConfineError(
                f"the settings have files kept in {directory}, which is no directory for them alone: "
                "see store.url, store.spool_directory, decode.template_file and rollup.key_file"
            )
        with suppress(OSError):  # the stage that needs it reports this
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return {directory.resolve() for directory in directories} | {Path("/dev/null")}


def _files(value: object) -> Iterator[Path]:
    """Yield all paths in the settings; `store.url` is not one."""
    if isinstance(value, Path):
        yield value.absolute()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _files(getattr(value, name))
    elif isinstance(value, Mapping):
        yield from _files(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _files(item)


def _receivers(settings: Settings) -> Iterator[tuple[ReceiverSettings, str]]:
    """Yield receivers with their URLs.  The stage reports one without a URL."""
    for name, receiver in settings.notify.receivers.items():
        with suppress(NotifyError):
            yield receiver, receiver.read_url(name)


def _webhooks(settings: Settings) -> Iterator[str]:
    """Yield the URLs of actions."""
    if settings.notify.actions_enabled:
        for name, action in settings.notify.actions.items():
            if action.kind == "webhook":
                with suppress(NotifyError):
                    yield action.read_url(name)


def _paths_of(url: str, only: str = "") -> Iterator[Path]:
    """Yield files that a URL names in its parameters, or `only` in this one: keyfile=/etc/vmflow/id,
    pkipath=/etc/pki/x."""
    with suppress(ValueError):
        for name, values in parse_qs(urlsplit(url).query).items():
            yield from (Path(value) for value in values if value.startswith("/") and only in ("", name))


def _clouds() -> Iterator[Path]:
    """Yield the places where openstacksdk looks by itself."""
    for directory in (Path.cwd(), *(home / ".config/openstack" for home in _homes()), Path("/etc/openstack")):
        for name in ("clouds", "clouds-public", "secure"):
            for ending in ("yaml", "yml", "json"):
                if (file := directory / f"{name}.{ending}").is_file():
                    yield file


def _absolute_paths(file: Path) -> Iterator[Path]:
    """Yield paths in a clouds.yaml: certificates and keys."""
    with suppress(OSError, UnicodeDecodeError):
        for line in file.read_text("utf-8").splitlines():
            value = line.partition(":")[2].strip().strip("'\"")
            if value.startswith("/"):
                yield Path(value)


def _homes() -> set[Path]:
    """Return the home directories by variable and by user database."""
    homes = {Path(os.environ["HOME"])} if os.environ.get("HOME", "").startswith("/") else set()
    with suppress(KeyError):  # a container's user has no entry
        homes.add(Path(pwd.getpwuid(os.getuid()).pw_dir))
    return {home.resolve() for home in homes}


def _bound(settings: Settings) -> Iterator[int]:
    if settings.web.enabled:
        yield settings.web.port
    if settings.store.embedded and settings.sql.enabled:
        yield settings.sql.port
    for endpoint in settings.listen.stream_endpoints():
        yield endpoint.port


def _connected(settings: Settings) -> frozenset[int] | None:
    """Return the TCP ports to connect to; None where they are not known beforehand."""
    ports = {PORT_DNS, *settings.confine.connect, *_ports_of_proxies()}
    for _, source in settings.inventory.sources:
        if source.ports is None:
            return None
        ports |= source.ports
    if not settings.store.embedded:
        ports.add(_port(settings.store.url, PORTS_STORE))
    for receiver, url in _receivers(settings):
        if receiver.kind == "apprise":
            ports |= {PORT_HTTP, PORT_HTTPS, *PORTS_MAIL, _port(url, PORTS_APPRISE)}
        else:
            ports.add(_port(url, PORTS_HTTP))
    ports |= {_port(url, PORTS_HTTP) for url in _webhooks(settings)}
    return frozenset(ports - {0})


def _ports_of_proxies() -> Iterator[int]:
    """Yield the ports of the proxies in http_proxy and the like: requests uses them."""
    for name, url in getproxies_environment().items():
        if name != "no":
            yield _port(url if "://" in url else f"http://{url}", PORTS_HTTP) or PORT_SOCKS


def _port(url: str, usual: Mapping[str, int]) -> int:
    """Return the port in a URL, else the usual one of its scheme, else 0."""
    return port_of(url) or usual.get(url.partition("://")[0].lower(), 0)
