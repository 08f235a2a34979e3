"""docs/receivers.md says what the code does: URLs that apprise takes, defaults, metrics, the example."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge
from pydantic import SecretStr

from collector.metrics import Metrics
from collector.notify.apprise import AppriseReceiver
from collector.notify.message import render
from collector.notify.settings import NotifySettings, ReceiverSettings
from collector.notify.stage import NotifyStage
from tests.notify.support import group, receiver

TEXT = (Path(__file__).parents[2] / "docs/receivers.md").read_text("utf-8")


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


URLS = re.findall(r"`([a-z]+://[^`]+)`", section("Where it goes"))


@pytest.mark.parametrize("url", URLS)
def test_apprise_takes_the_urls(url: str) -> None:
    AppriseReceiver("ops", ReceiverSettings(url=SecretStr(url))).open()


def test_there_are_urls() -> None:
    assert {url.split("://")[0] for url in URLS} >= {"mailtos", "wecombot", "wechat", "smseagles", "jsons"}


def test_the_example_is_valid() -> None:
    for block in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL):
        settings = NotifySettings.model_validate(tomllib.loads(block)["notify"])
        assert set(settings.receivers) == {"ops", "night", "alertmanager"}


def test_settings_and_defaults() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| .* \|$", section("Settings of a receiver"), re.MULTILINE)
    documented: dict[str, str] = {}
    for names, defaults in rows:
        keys = re.findall(r"`(\w+)`", names)
        documented |= dict(zip(keys, defaults.strip("`").split(", "), strict=True))
    fields = ReceiverSettings.model_fields
    assert set(documented) == set(fields)
    for name, text in documented.items():
        default = fields[name].default
        shown = "–" if default in (None, "") else f"{default:g}" if isinstance(default, float) else str(default)
        assert text.replace(",", "") == shown, name


def test_metrics() -> None:
    metrics = Metrics()
    settings = NotifySettings(receivers={"ops": receiver("json://host/")})
    NotifyStage(settings, metrics, lambda *_: None, on_delivered=lambda *_: None)  # type: ignore[arg-type, return-value]
    declared = {
        f"{family.name}_total" if family.type == Counter._type else family.name: family.type
        for family in metrics.registry.collect()
    }
    documented = re.findall(r"^\| `(vmflow_\w+)`", section("Metrics"), re.MULTILINE)

    assert set(documented) == set(declared)
    assert set(declared.values()) == {Counter._type, Gauge._type}


def test_the_message_shown_is_what_is_sent() -> None:
    shown = re.findall(r"```text\n(.*?)\n\.\.\.\n```", TEXT, re.DOTALL)
    message = render(group(), "en", 10)
    assert f"{message.title}\n\n{message.text}".startswith(shown[0])
