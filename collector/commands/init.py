"""`vmflow init`: write a valid settings file, and print the lines to type at Open vSwitch.

The lines are those of `deploy/ovs.md`, which the tests type into a real Open vSwitch.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from collector.commands.check import as_toml
from collector.commands.common import MACHINE, PLACE, packaged, write_file
from collector.inventory.settings import LibvirtSettings, OvsdbSettings
from collector.listen.settings import DEFAULT_PORTS, Endpoint, ListenSettings, parse_endpoint
from collector.settings import InvalidSettingsError, load
from collector.store.settings import default_url
from collector.terminal import UsageError, ask_line, interactive, say, tell

EVERYWHERE = "0.0.0.0"
ANSWERS = ("listen", "libvirt", "ovsdb", "openstack", "static", "store")
"""Arguments that go into the file."""
PAGE, EXAMPLE, AGENT = "ovs.md", "192.0.2.1", "192.0.2.11"
"""Where the lines are; the collector and the hypervisor in them."""
LINES = (
    ("sflow-set", 6343, "sFlow, for most clouds:"),
    ("ipfix-set-3.2", 4739, "or IPFIX, Open vSwitch 3.2 and later:"),
    ("ipfix-set-3.1", 4739, "or IPFIX, Open vSwitch 2.4 to 3.1:"),
    ("ipfix-loss", 4739, "or IPFIX of all packets, for loss and latency, with `sampling_rate = 1` (deploy/ovs.md):"),
    ("netflow-set", 2055, "or NetFlow v5:"),
)
"""Block of the page, usual port, and what it is."""
EXTRAS = {"libvirt": "libvirt", "ovsdb": "ovs", "openstack": "openstack"}
"""Source of the inventory, which is an extra, too -> the module that it needs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "In a terminal, and with none of these but --output and --force, it asks.\n\n"
        "examples:\n"
        "  vmflow init\n"
        "  vmflow init --listen 0.0.0.0 --ovsdb tcp:192.0.2.11:6640 --output vmflow.toml\n"
        "  vmflow init --listen 192.0.2.1:6343 --libvirt qemu+ssh://vmflow@hv1/system --libvirt "
        "qemu+ssh://vmflow@hv2/system\n"
        "  vmflow init --listen '[::]' --static vms.csv --store https://clickhouse.example:8443 --force"
    )
    more = "; may be repeated"
    parser.add_argument(
        "--listen", action="append", metavar="HOST[:PORT]",
        help=f"address for exports; without a port, {', '.join(map(str, DEFAULT_PORTS))}{more} (default: loopback)",
    )  # fmt: skip
    for name, metavar, example in (
        ("libvirt", "URI", LibvirtSettings().uri),
        ("ovsdb", "REMOTE", OvsdbSettings().remote),
        ("openstack", "CLOUD", "its name in clouds.yaml"),
        ("static", "FILE", "TOML or CSV"),
    ):
        parser.add_argument(
            f"--{name}", action="append", metavar=metavar, help=f"who is who, from here: {example}{more}"
        )
    parser.add_argument("--store", metavar="URL", help=f"where rows go (default: {default_url()})".replace("%", "%%"))
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: where vmflow looks)")
    parser.add_argument("--force", action="store_true", help="overwrite the file if it is there")


def run(args: argparse.Namespace) -> int:
    """Write and print; exit code 2 for what cannot be used, and for an existing file."""
    given: dict[str, Any] = {name: getattr(args, name) for name in ANSWERS}
    output = args.output or default_file()
    if os.path.lexists(output) and not args.force:
        raise UsageError(f"{output} is there already: --force overwrites it, --output names another")
    try:
        if not any(given.values()):
            if not interactive():
                raise UsageError("say what goes in, such as --listen 0.0.0.0; in a terminal it would be asked")
            given = asked()
        sections = sections_of(given)
        text = "# Settings of vmflow, made by `vmflow init`.  `vmflow check --dump` shows all others.\n"
        text += as_toml(sections) + "\n"
        check(text)
    except (ValueError, InvalidSettingsError) as error:
        raise UsageError(str(error)) from error
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, text, 0o600, force=args.force)
    say(f"# {output} is written and right.  On each hypervisor, as root, with its own address for {AGENT}:")
    listening = [parse_endpoint(address) for address in sections.get("listen", {}).get("addresses", ())]
    say(*lines_for(listening or ListenSettings().endpoints()))
    tell(*advice(output, sections, args.output is None))
    return 0


def default_file() -> Path:
    """Where vmflow looks for settings: of the machine for root, else of this user."""
    if os.geteuid() == 0:
        return MACHINE / PLACE
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / PLACE


def asked() -> dict[str, Any]:
    """Return a person's answers, one question after the other; a wrong answer is asked for again."""
    tell("An empty answer takes what stands in brackets.  Several answers: a blank between them.")

    def ask(question: str, default: str, check: Callable[[list[str]], object]) -> list[str]:
        while True:
            answers = ask_line(f"{question} [{default or 'none'}]: ").split() or default.split()
            try:
                check(answers)
            except ValueError as error:
                tell(str(error))
            else:
                return answers

    def known(name: str) -> Callable[[list[str]], object]:
        return lambda answers: check(as_toml(sections_of({name: " ".join(answers) if name == "store" else answers})))

    return {
        "listen": ask("Addresses for exports (0.0.0.0 is everywhere)", EVERYWHERE, known("listen")),
        "libvirt": ask("libvirt URIs of hypervisors, such as qemu+ssh://vmflow@hv1/system", "", known("libvirt")),
        "ovsdb": ask("Open vSwitch databases, such as tcp:192.0.2.11:6640", "", known("ovsdb")),
        "openstack": ask("OpenStack clouds, by name in clouds.yaml", "", known("openstack")),
        "static": ask("Files that name VMs, TOML or CSV", "", known("static")),
        "store": " ".join(ask("Store", default_url(), known("store"))),
    }


def sections_of(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings that answers mean, by section.  Raises ValueError for an address that is none."""
    sources: dict[str, list[dict[str, Any]]] = {}
    for name, key in (("libvirt", "uri"), ("ovsdb", "remote"), ("openstack", "cloud"), ("static", "file")):
        values = given.get(name) or []
        # The service starts in another directory than this one.
        shown = [str(Path(value).expanduser().absolute()) if name == "static" else value for value in values]
        if shown:
            sources[name] = [{key: value} | exporters_of(name, value) for value in shown]
    try:
        addresses = [str(endpoint) for text in given.get("listen") or [] for endpoint in endpoints(text)]
    except ValueError as error:
        raise ValueError(f"listen: {error}") from None
    sections: dict[str, dict[str, Any]] = {
        "listen": {"addresses": addresses} if addresses else {},
        "inventory": sources,
        "store": {"url": given["store"]} if given.get("store") else {},
    }
    return {name: values for name, values in sections.items() if values}


def exporters_of(source: str, remote: str) -> dict[str, list[str]]:
    """The address that a hypervisor exports from, as far as the source's own says it: `tcp:192.0.2.11:6640`."""
    if source not in ("libvirt", "ovsdb"):
        return {}
    host = urlsplit(remote if source == "libvirt" else remote.replace(":", "://", 1)).hostname or ""
    try:
        return {} if ip_address(host).is_loopback else {"exporters": [host]}
    except ValueError:
        return {}


def endpoints(text: str) -> Iterator[Endpoint]:
    """The addresses that `HOST`, `HOST:PORT` or `[IPv6]:PORT` means.  Raises ValueError."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ip_address(bare)
    except ValueError:
        yield parse_endpoint(text if ":" in text else f"{text}:{DEFAULT_PORTS[0]}")
        if ":" not in text:
            yield from (Endpoint(text, port) for port in DEFAULT_PORTS[1:])
    else:
        yield from (Endpoint(bare, port) for port in DEFAULT_PORTS)


def check(text: str) -> None:
    """Read settings as `vmflow check` does.  Raises ValueError saying what is wrong."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".toml") as file:
        file.write(text)
        file.flush()
        try:
            load(Path(file.name))
        except (InvalidSettingsError, ValidationError) as error:
            raise ValueError(str(error).replace(file.name, "the file")) from error


def lines_for(listening: Sequence[Endpoint]) -> list[str]:
    """Return the lines that make Open vSwitch export to one of these addresses."""
    shown = []
    for name, usual, what in LINES:
        target = next((one for one in listening if one.port == usual), listening[0])
        host = reachable(target.host)
        lines = block(name).replace(f"{EXAMPLE}:{usual}", str(Endpoint(host, target.port)))
        shown += ["", f"# {what}", *lines.splitlines()]
    return shown


def block(name: str) -> str:
    """A block of lines of the page, by its name."""
    found = re.search(
        rf"^```sh name={re.escape(name)}(?: [^\n]*)?\n(.*?)^```$", packaged(PAGE), re.MULTILINE | re.DOTALL
    )
    if found is None:
        raise ValueError(f"{PAGE} has no block {name}")
    return found[1].rstrip("\n")


def reachable(host: str) -> str:
    """Where a hypervisor finds a collector that listens there: of all addresses, the one that others see."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    family, far = (socket.AF_INET, EXAMPLE) if address.version == 4 else (socket.AF_INET6, "2001:db8::1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Sends nothing: the system only chooses a route.
            probe.connect((far, DEFAULT_PORTS[0]))
            return str(probe.getsockname()[0])
    except OSError:
        return EXAMPLE if address.version == 4 else far


def advice(output: Path, sections: Mapping[str, Any], found: bool) -> Iterator[str]:
    """What to do next, a line each."""
    listening = [parse_endpoint(one) for one in sections.get("listen", {}).get("addresses", ())]
    if not listening:
        yield "it listens on loopback only: with --listen 0.0.0.0 hypervisors reach it"
    elif any(one.host in (EVERYWHERE, "::") for one in listening):
        yield f"{reachable(listening[0].host)} is this machine's address by its routes: take another if hypervisors do"
    inventory = sections.get("inventory", {})
    if missing := [name for name, module in EXTRAS.items() if name in inventory and not _installed(module)]:
        yield f"pip install 'vmflow[{','.join(missing)}]': these sources need it"
    for source in inventory.get("static", ()):
        if not Path(source["file"]).is_file():
            yield f"write {source['file']}: it is not there yet (docs/inventory.md)"
    if not inventory:
        yield "no VM has a name yet: --libvirt, --ovsdb, --openstack and --static say who is who (docs/inventory.md)"
    hypervisors = [*inventory.get("libvirt", ()), *inventory.get("ovsdb", ())]
    if any("exporters" not in source for source in hypervisors):
        yield "in the file, at each of these hypervisors, the address that it exports from, or its pairs stay empty:"
        yield f'  exporters = ["{AGENT}"]   (docs/inventory.md)'
    config = "" if found else f" --config {output}"
    yield f"next: vmflow run{config}, then vmflow exporters --doctor{config}"
    yield f"as a service: vmflow deploy systemd DIR, and as root: install -D -m 644 {output} {MACHINE / PLACE}"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
