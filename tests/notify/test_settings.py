"""Where a receiver's address comes from, what is refused, and that no mistake shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector.commands.check import as_toml
from collector.notify.receiver import NotifyError
from collector.notify.settings import NotifySettings, ReceiverSettings
from collector.notify.stage import receivers
from collector.settings import InvalidSettingsError, Settings, load

SECRET = "s3cr3t-t0ken"  # noqa: S105 - looked for where it must not be
URL = f"json://user:{SECRET}@127.0.0.1:9/{SECRET}"


class Wired(Settings):
    """The service's settings with this section."""

    notify: NotifySettings = NotifySettings()


@pytest.fixture(autouse=True)
def wired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until collector/settings.py has the section."""
    if "notify" not in Settings.model_fields:
        monkeypatch.setattr("collector.settings.Settings", Wired)


def test_addresses_come_from_settings_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "url"
    file.write_text(f"{URL}\n")
    monkeypatch.setenv("OPS_URL", URL)
    toml = tmp_path / "vmflow.toml"
    toml.write_text(
        f'[notify.receivers]\na = {{url = "{URL}"}}\nb = {{url_file = "{file}"}}\nc = {{url_env = "OPS_URL"}}\n'
    )
    notify: Any = load(toml).notify  # type: ignore[attr-defined, unused-ignore]

    assert [one.read_url(name) for name, one in notify.receivers.items()] == [URL] * 3


def test_nothing_shows_an_address(tmp_path: Path) -> None:
    toml = tmp_path / "vmflow.toml"
    toml.write_text(f'[notify.receivers.ops]\nurl = "{URL}"\nlanguage = "zh"\n')
    settings = load(toml)

    shown = as_toml(settings.model_dump(mode="json", exclude_none=True)) + repr(settings) + str(settings)
    assert "ops" in shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f'kind = "pager"\nurl = "{URL}"', "kind"),
        (f'language = "fr"\nurl = "{URL}"', "language"),
        (f'uri = "{URL}"', "no such setting"),
        (f'url = "{URL}"\nurl_env = "X"', "exactly one of url, url_file, url_env is expected, not url, url_env"),
        ('language = "en"', "not none"),
        ('url_env = "VMFLOW_X"', "does not begin with VMFLOW_"),
        (f'url = "{SECRET}"', "scheme://"),
        (f'url = "json://host/{SECRET} x"', "without spaces"),
        (f'url = ["{SECRET}"]', "scheme://"),
        (f'kind = "alertmanager"\nurl = "ftp://user:{SECRET}@host"', "http://host:9093"),
        (f'kind = "alertmanager"\nurl = "http://user:{SECRET}@host:99999999"', "http://host:9093"),
        (f'kind = "alertmanager"\nurl = "http://host/?token={SECRET}"', "http://host:9093"),
        (f'url = "{URL}"\nlines = 0', "lines"),
    ],
)
def test_mistakes_are_reported_without_the_address(tmp_path: Path, line: str, expected: str) -> None:
    toml = tmp_path / "vmflow.toml"
    toml.write_text(f"[notify.receivers.ops]\n{line}\n")
    with pytest.raises(InvalidSettingsError) as caught:
        load(toml)

    assert expected in str(caught.value)
    assert "notify.receivers" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"url": "nosuchservice://" + SECRET}, "no URL that apprise takes"),
        ({"url": f"wecombot://{SECRET}!/"}, "no URL that apprise takes"),
        ({"url": "mailto://" + SECRET}, "no URL that apprise takes"),
        ({"url_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is not set"),
        ({"url_file": "/nowhere/url"}, "/nowhere/url: No such file"),
        ({"kind": "alertmanager", "url": "https://host", "ca_file": "/nowhere/ca"}, "/nowhere/ca: no such file"),
    ],
)
def test_what_cannot_be_used_is_reported_before_the_first_alert(values: dict[str, Any], expected: str) -> None:
    made = receivers(NotifySettings.model_validate({"receivers": {"ops": values}}))["ops"]
    with pytest.raises(NotifyError) as caught:
        made.open()

    assert expected in str(caught.value)
    assert "notify.receivers.ops" in str(caught.value)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


def test_a_file_that_is_no_address_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "url"
    for octets, expected in ((b"\xff\xfe", "UTF-8"), (b"x" * 9000, "8192"), (b"a b", "spaces"), (b"\n", "scheme://")):
        file.write_bytes(octets)
        with pytest.raises(NotifyError, match=expected):
            ReceiverSettings(url_file=file).read_url("ops")


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 65, "ä"])
def test_names_are_labels_and_file_names(name: str) -> None:
    with pytest.raises(ValueError, match="receivers"):
        NotifySettings.model_validate({"receivers": {name: {"url": URL}}})
