"""From settings to receivers, by their kind."""

from __future__ import annotations

from collector.deliver.alertmanager import AlertmanagerReceiver
from collector.deliver.answer import Receiver
from collector.deliver.settings import DeliverSettings, ReceiverSettings


def receivers(settings: DeliverSettings) -> dict[str, Receiver]:
    """The receivers that are set, by name, not yet open."""
    return {name: _receiver(name, one, settings.public_url) for name, one in settings.receivers.items()}


def _receiver(name: str, settings: ReceiverSettings, public_url: str) -> Receiver:
    if settings.kind == "alertmanager":
        return AlertmanagerReceiver(name, settings, public_url)
    # Loading apprise takes half a second, which only those wait for who use it.
    from collector.deliver.receivers import AppriseReceiver  # noqa: PLC0415

    return AppriseReceiver(name, settings)
