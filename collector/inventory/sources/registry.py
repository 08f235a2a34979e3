"""The sources that the settings ask for.  Each one's library is loaded only if it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module

from collector.inventory.poller import Polled
from collector.inventory.settings import InventorySettings
from collector.inventory.sources.base import Source

KINDS = {
    "libvirt": "libvirt.Libvirt",
    "ovsdb": "ovsdb.Ovsdb",
    "openstack": "openstack.Openstack",
    "static": "static_file.Static",
}
"""Name in the settings -> module in this folder, and its class."""

INVENTORY_THREAD = "inventory"
"""Name of the thread that puts answers together and builds snapshots."""


def threads(settings: InventorySettings) -> dict[str, int]:
    """Return the worker threads that the inventory needs, by name: one for itself, one for each source, which may
    hang."""
    return {INVENTORY_THREAD: 1} | {_thread(number): 1 for number in range(len(settings.sources))}


def _thread(number: int) -> str:
    return f"{INVENTORY_THREAD}-{number}"


def sources(settings: InventorySettings) -> list[Polled]:
    """Return all sources of the settings, nothing opened yet.  Raises SourceSetupError for one that can never be
    polled."""
    made: list[Source] = []
    for kind, one in settings.sources:
        module, name = KINDS[kind].split(".")
        made.append(getattr(import_module(f"collector.inventory.sources.{module}"), name)(one))
    _keep_apart(made)
    return [
        Polled(source, _thread(number), one.every_seconds, one.deadline_seconds)
        for number, (source, (_, one)) in enumerate(zip(made, settings.sources, strict=True))
    ]


def _keep_apart(made: Sequence[Source]) -> None:
    """Number those with the same name, such as a cloud in two configuration files: statements are kept by source
    name."""
    seen: Counter[str] = Counter()
    for source in made:
        seen[source.name] += 1
        if seen[source.name] > 1:
            source.name = f"{source.name} ({seen[source.name]})"
