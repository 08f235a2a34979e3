"""`vmflow alerts test-receiver`: send a test message to one receiver."""

from __future__ import annotations

import time

from collector.deliver.answer import DeliverError
from collector.deliver.kinds import receivers
from collector.deliver.sample import sample
from collector.deliver.settings import DeliverSettings
from collector.terminal import complain, say


def try_receiver(command: str, settings: DeliverSettings, name: str) -> int:
    """Send a test message, once.  Alertmanager shows it as an alert that ends by itself after some minutes."""
    made = receivers(settings)
    if name not in made:
        complain(command, f"no receiver {name!r}; there are {', '.join(sorted(made)) or 'none: set deliver.receivers'}")
        return 2
    receiver = made[name]
    try:
        receiver.open()
    except DeliverError as error:
        complain(command, str(error))
        return 2
    answer = receiver.send(sample(name, time.time_ns() // 1000, settings.receivers[name].language))
    if answer.ok:
        say(f"{name}: taken; look whether it has arrived")
        return 0
    again = "would not be tried again" if answer.permanent else "would be tried again"
    complain(command, f"{name}: not delivered: {answer.reason} ({again})")
    return 1
