"""`vmflow alerts`: try the receivers of alerts."""

from __future__ import annotations

import argparse
import time

from collector.commands.common import add_settings_arguments, complain, settings_or_none
from collector.deliver.answer import DeliverError
from collector.deliver.kinds import receivers
from collector.deliver.sample import sample
from collector.deliver.settings import DeliverSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    test = actions.add_parser("test-receiver", help="send a test message to one receiver, and say what happened")
    test.add_argument("receiver", metavar="NAME", help="name of the receiver in [deliver.receivers]")
    add_settings_arguments(test)


def run(args: argparse.Namespace) -> int:
    """Do what is asked; exit code 1 if the receiver did not take the message, 2 for a mistake in call or settings."""
    settings = settings_or_none(args)
    if settings is None:
        return 2
    return try_receiver(args.command, settings.deliver, args.receiver)


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
        print(f"{name}: taken; look whether it has arrived")
        return 0
    again = "would not be tried again" if answer.permanent else "would be tried again"
    complain(command, f"{name}: not delivered: {answer.reason} ({again})")
    return 1
