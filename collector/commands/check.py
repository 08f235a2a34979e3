"""`vmflow check`: check the settings, and print them as they are understood."""

from __future__ import annotations

import argparse
import re
import tomllib
from typing import Any

from collector.commands.common import add_settings_arguments, load_settings
from collector.settings import Settings
from collector.terminal import say
from schemas.text import HOSTILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument(
        "--dump", action="store_true", help="print every setting with its value, as TOML; secrets hidden"
    )


def run(args: argparse.Namespace) -> int:
    """Check the settings, and look at what rules learned; exit code 2, with key, value and what was expected, if
    wrong."""
    settings = load_settings(args)
    if args.dump:
        say(*as_toml(settings.model_dump(mode="json", exclude_none=True)).split("\n"))
    else:
        sockets, store = len(settings.listen.endpoints()), settings.store.shown_url
        say(f"settings are right: {sockets} UDP sockets, store {store}; read from {args.config or 'no file'}")
        for rule, why in unfit(settings).items():
            say(f"rule {rule}: what it learned is not used ({why}); the next start replays the stored windows")
    return 0


def unfit(settings: Settings) -> dict[str, str]:
    """Return why what a rule learned, in the files of a former run, would not be used; by name of rule."""
    rules = [rule for rule in settings.alerts.active() if rule.condition == "anomaly"]
    if not rules:
        return {}
    from collector.alert.evaluate import LEARNED, judge_of  # noqa: PLC0415 - half a second, and few rules learn

    judges = [judge_of(rule, settings.alerts) for rule in rules]
    for judge in judges:
        judge.keep(settings.store.spool / LEARNED)
    return {judge.rule.name: judge.unfit for judge in judges if judge.unfit}


def as_toml(sections: dict[str, Any]) -> str:
    """Sections of plain values as TOML.  The result is read back, so what cannot be read again is never printed."""
    lines: list[str] = []
    for section, values in sections.items():
        lines += ["", f"[{section}]", *(f"{key} = {_value(value)}" for key, value in values.items())]
    text = "\n".join(lines).strip()
    tomllib.loads(text)
    return text


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_value(str(key))} = {_value(item)}" for key, item in value.items()) + "}"
    quoted = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{HOSTILE.sub(_escape, quoted)}"'


def _escape(found: re.Match[str]) -> str:
    return f"\\U{ord(found[0]):08x}"
