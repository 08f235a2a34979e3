"""`vmflow alerts`: list, show, acknowledge, resolve and silence alerts of the running service; try the receivers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from collector.commands import tables
from collector.commands.api_client import ApiClient, client_of, whole_id
from collector.commands.common import (
    add_settings_arguments,
    add_url_argument,
    add_who_argument,
    load_settings,
    seconds,
    who,
)
from collector.commands.output import add_format_argument, show_items
from collector.notify.message import sample
from collector.notify.receiver import NotifyError
from collector.notify.settings import NotifySettings
from collector.notify.stage import receivers
from collector.terminal import CommandError, UsageError, say

VERDICTS = {
    "true": "it was right: it is not learned as usual; of one that has ended, too",
    "false": "it was wrong: what fires next must be rarer; of one that has ended, too",
}
LASTING = ("firing", "acknowledged")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = _asking(actions, "list", "alerts that last, those that fired last first")
    listing.add_argument("--all", action="store_true", help="resolved ones, too")
    listing.add_argument("--severity", action="append", choices=("info", "warning", "critical"), help="may be repeated")
    listing.add_argument("--rule", action="append", metavar="NAME", help="only this rule; may be repeated")
    listing.add_argument("--vm", metavar="PATTERN", help="VM at either end; * and ? stand for any characters")
    listing.add_argument("--most", type=int, default=100, metavar="N", help="at most so many, 1 to 1000 (default: 100)")
    for name, text in (("show", "all about one alert"), ("history", "what happened to one alert")):
        _asking(actions, name, text).add_argument("id", metavar="ID", help="id of the alert, or how it begins")
    for name, text in (("ack", "take an alert on: it is not escalated any more"), ("resolve", "end an alert")):
        acting = _acting(actions, name, text)
        acting.add_argument("id", metavar="ID", help="id of the alert, or how it begins")
        acting.add_argument("comment", nargs="?", default="", metavar="COMMENT", help="why")
        if name == "resolve":
            verdict = acting.add_mutually_exclusive_group()
            for word, meaning in VERDICTS.items():
                # With the comment as its own: argparse finds none behind an option otherwise.
                verdict.add_argument(f"--{word}", nargs="?", const="", metavar="COMMENT", help=meaning)
    silence = _acting(actions, "silence", "keep messages of alerts that match back for some time")
    silence.add_argument("duration", metavar="DURATION", help="such as 30m, 2h or 7d")
    silence.add_argument("matchers", nargs="+", metavar="NAME=PATTERN", help="such as src_vm=web-*; all must match")
    silence.add_argument("--comment", default="", help="why")
    _asking(actions, "silences", "silences that last").add_argument(
        "--all", action="store_true", help="ended ones, too"
    )
    _acting(actions, "unsilence", "end a silence").add_argument("id", metavar="ID", help="id of the silence")
    _asking(actions, "rules", "rules, and how their evaluation goes")
    test = actions.add_parser("test-receiver", help="send a test message to one receiver, and say what happened")
    test.add_argument("receiver", metavar="NAME", help="name of the receiver in [notify.receivers]")
    add_settings_arguments(test)


def _asking(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    """An action that talks to the service."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    add_url_argument(parser)
    add_format_argument(parser)
    add_settings_arguments(parser)
    return parser


def _acting(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    """An action that changes something."""
    parser = _asking(actions, name, text)
    add_who_argument(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what is asked; exit code 1 if the service or receiver does not, 2 for a mistake in call or settings."""
    settings = load_settings(args)
    if args.action == "test-receiver":
        return try_receiver(args.command, settings.notify, args.receiver)
    ACTIONS[args.action](client_of(args.url, settings), args)
    return 0


def try_receiver(command: str, settings: NotifySettings, name: str) -> int:
    """Send a test message, once.  Alertmanager shows it as an alert that ends by itself after some minutes."""
    made = receivers(settings)
    if name not in made:
        raise UsageError(f"no receiver {name!r}; there are {', '.join(sorted(made)) or 'none: set notify.receivers'}")
    receiver = made[name]
    try:
        receiver.open()
    except NotifyError as error:
        raise UsageError(str(error)) from error
    answer = receiver.send(sample(name, time.time_ns() // 1000, settings.receivers[name].language))
    if answer.ok:
        say(f"{name}: taken; look whether it has arrived")
        return 0
    again = "would not be tried again" if answer.permanent else "would be tried again"
    raise CommandError(f"{name}: not delivered: {answer.reason} ({again})")


def matchers(items: list[str]) -> dict[str, str]:
    """Name and pattern of each `name=pattern`.  Raises UsageError for what is none."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, pattern = item.partition("=")
        if not (name and equals and pattern) or name in found:
            raise UsageError(f"{item}: name=pattern is expected, each name once, such as src_vm=web-*")
        found[name] = pattern
    return found


def _list(client: ApiClient, args: argparse.Namespace) -> None:
    state = None if args.all else LASTING
    answer = client.get("/alerts", state=state, severity=args.severity, rule=args.rule, vm=args.vm, limit=args.most)
    show_items(answer["alerts"], args.format, lambda: tables.alerts(answer["alerts"]))


def _show(client: ApiClient, args: argparse.Namespace) -> None:
    answer = client.get(f"/alerts/{client.alert_id(args.id)}", limit=1)
    show_items([answer["alert"]], args.format, lambda: tables.alert(answer["alert"]))


def _history(client: ApiClient, args: argparse.Namespace) -> None:
    answer = client.get(f"/alerts/{client.alert_id(args.id)}", limit=1000)
    show_items(answer["history"], args.format, lambda: tables.events(answer["history"]))


def _act(client: ApiClient, args: argparse.Namespace) -> None:
    verb = {"ack": "acknowledge"}.get(args.action, args.action)
    body = {"who": who(args), "comment": args.comment}
    for word in VERDICTS:
        if (comment := getattr(args, word, None)) is not None:
            body |= {"verdict": word, "comment": comment or args.comment}
    answer = client.post(f"/alerts/{client.alert_id(args.id)}/{verb}", body)
    show_items([answer], args.format, lambda: tables.alerts([answer]))


def _silence(client: ApiClient, args: argparse.Namespace) -> None:
    body = {
        "matchers": matchers(args.matchers), "seconds": seconds(args.duration), "who": who(args),
        "comment": args.comment,
    }  # fmt: skip
    answer = client.post("/silences", body)
    show_items([answer], args.format, lambda: say(answer["silence_id"]))


def _silences(client: ApiClient, args: argparse.Namespace) -> None:
    answer = client.get("/silences", ended="true" if args.all else None, limit=1000)
    show_items(answer["silences"], args.format, lambda: tables.silences(answer["silences"]))


def _unsilence(client: ApiClient, args: argparse.Namespace) -> None:
    client.post(f"/silences/{whole_id(args.id)}/end", {"who": who(args)})
    show_items([{"silence_id": args.id}], args.format, lambda: say("ended"))


def _rules(client: ApiClient, args: argparse.Namespace) -> None:
    answer = client.get("/rules")
    show_items(answer["rules"], args.format, lambda: tables.rules(answer["rules"]))


ACTIONS: dict[str, Callable[[ApiClient, argparse.Namespace], None]] = {
    "list": _list,
    "show": _show,
    "history": _history,
    "ack": _act,
    "resolve": _act,
    "silence": _silence,
    "silences": _silences,
    "unsilence": _unsilence,
    "rules": _rules,
}
