"""The sources that the settings ask for.  Each one's library is loaded only if it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from collector.inventory.poller import Polled
from collector.inventory.settings import InventorySettings
from collector.inventory.sources.base import Source

INVENTORY_THREAD = "inventory"
"""Name of the thread that puts answers together and builds snapshots."""


def threads(settings: InventorySettings) -> dict[str, int]:
    """Return the worker threads that the inventory needs, by name: one for itself, one for each source, which may
    hang."""
    count = sum(map(len, (settings.libvirt, settings.ovsdb, settings.openstack, settings.static)))
    return {INVENTORY_THREAD: 1} | {_thread(number): 1 for number in range(count)}


def _thread(number: int) -> str:
    return f"{INVENTORY_THREAD}-{number}"


def sources(settings: InventorySettings) -> list[Polled]:
    """Return all sources of the settings, nothing opened yet.  Raises SourceSetupError for one that can never be
    polled."""
    made: list[tuple[Source, float, float]] = []
    for libvirt in settings.libvirt:
        from collector.inventory.sources.libvirt import Libvirt  # noqa: PLC0415 - optional library

        made.append(
            (Libvirt(libvirt), _every(libvirt.poll_seconds, libvirt.counters_seconds), libvirt.deadline_seconds)
        )
    for ovsdb in settings.ovsdb:
        from collector.inventory.sources.ovsdb import Ovsdb  # noqa: PLC0415 - optional library

        made.append((Ovsdb(ovsdb), _every(ovsdb.poll_seconds, ovsdb.counters_seconds), ovsdb.deadline_seconds))
    for openstack in settings.openstack:
        from collector.inventory.sources.openstack import Openstack  # noqa: PLC0415 - optional library

        made.append((Openstack(openstack), openstack.poll_seconds, openstack.deadline_seconds))
    for static in settings.static:
        from collector.inventory.sources.static_file import Static  # noqa: PLC0415 - as the others

        made.append((Static(static), static.poll_seconds, static.deadline_seconds))
    _tell_apart([source for source, _, _ in made])
    return [Polled(source, _thread(number), poll, deadline) for number, (source, poll, deadline) in enumerate(made)]


def _tell_apart(made: Sequence[Source]) -> None:
    """Number those with the same name, such as a cloud in two configuration files: statements are kept by source
    name."""
    seen: Counter[str] = Counter()
    for source in made:
        seen[source.name] += 1
        if seen[source.name] > 1:
            source.name = f"{source.name} ({seen[source.name]})"


def _every(poll_seconds: float, counters_seconds: float) -> float:
    """Return how often to poll a source that also reads counters, if they are wanted."""
    return min(poll_seconds, counters_seconds) if counters_seconds else poll_seconds
