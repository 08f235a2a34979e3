"""No secret is printed: not by commands, in errors, in logs, by the web server, or by the SQL endpoint."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import traceback
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from collector.settings import InvalidSettingsError, load
from tests import service as services

STORE = "store-s3cr3t"
RECEIVER = "receiver-s3cr3t"
TOKEN = "token-s3cr3t"
CLIENT = "client-s3cr3t"
PASSWORD = "user-s3cr3t"
SALT = "c2FsdHNhbHQ"
HASH = f"$argon2id$v=19$m=8,t=1,p=1${SALT}$aGFzaGhhc2hoYXNoaGFzaA"
DIGEST = "5" * 64
SECRETS = (STORE, RECEIVER, TOKEN, CLIENT, PASSWORD, SALT, DIGEST)

TOML = f"""
[store]
password = "{STORE}"
[notify.receivers.operators]
url = "json://user:{RECEIVER}@127.0.0.1:9/{RECEIVER}"
[access]
users = [{{name = "ann", password_hash = "{HASH}", role = "operator"}}]
tokens = [{{name = "probe", token_hash = "sha256:{DIGEST}"}}]
client_token = "{CLIENT}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vmflow.toml"
    path.write_text(TOML)
    return path


def assert_none(text: str) -> None:
    assert not [secret for secret in SECRETS if secret in text]
    for secret in SECRETS:
        assert base64.b64encode(secret.encode()).decode().rstrip("=")[:-1] not in text


def vmflow(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VMFLOW_")}
    command = [sys.executable, "-m", "collector", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    return done.stdout + done.stderr


def test_settings_do_not_print_themselves(file: Path) -> None:
    settings = load(file)
    assert settings.store.password.get_secret_value() == STORE
    assert settings.access.client_token.get_secret_value() == CLIENT
    for text in (repr(settings), str(settings), str(settings.model_dump(mode="json")), settings.model_dump_json()):
        assert "ann" in text
        assert_none(text)


def test_check_and_dump_print_none(file: Path) -> None:
    assert "settings are right" in vmflow("check", "--config", str(file))
    dumped = vmflow("check", "--dump", "--config", str(file))
    assert "client_token" in dumped
    assert_none(dumped)


@pytest.mark.parametrize(
    "override",
    [
        f"store.url=http://user:{STORE}@127.0.0.1:8123",
        f"store.url=ftp://user:{STORE}@127.0.0.1:8123",
        f"store.url=http://127.0.0.1:8123/?password={STORE}",
        f'store.password=["{STORE}"]',
        f"notify.receivers=json://{RECEIVER}",
        f'notify.receivers={{"x": "json://{RECEIVER}"}}',
        f'notify.receivers={{"x": {{"url": ["{RECEIVER}"]}}}}',
        f'notify.receivers={{"x": {{"url": "{RECEIVER}"}}}}',
        f"access.users={PASSWORD}",
        f'access.users=["{PASSWORD}"]',
        f'access.users=[{{"name": "ann", "password_hash": "{PASSWORD}"}}]',
        f'access.users=[{{"name": "ann", "password": "{PASSWORD}"}}]',
        f'access.tokens=[{{"name": "probe", "token_hash": "{TOKEN}"}}]',
        f'access.tokens="{TOKEN}"',
        f'access.client_token=["{CLIENT}"]',
    ],
)
def test_mistakes_are_reported_without_the_secret(override: str) -> None:
    with pytest.raises(InvalidSettingsError) as caught:
        load(None, [override])

    expected = str(caught.value)
    assert override.partition("=")[0].split(".")[0] in expected
    assert_none(expected)


def test_a_traceback_of_the_settings_shows_none(file: Path) -> None:
    settings = load(file)
    try:
        raise ValueError(settings)
    except ValueError:
        assert_none(traceback.format_exc())


def test_a_store_that_cannot_be_reached_is_reported_without_the_password(file: Path) -> None:
    expected = vmflow("query", "SELECT 1", "--config", str(file), "--set", "store.url=http://127.0.0.1:9")
    assert "127.0.0.1" in expected
    assert_none(expected)


def _get(url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return f"{response.headers}{response.read().decode(errors='replace')}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.headers}{error.read().decode(errors='replace')}"


def test_the_service_tells_none(file: Path, tmp_path: Path) -> None:
    """At log level debug, with right and wrong logins, and errors on the way."""
    wrong = {"Authorization": "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()}
    overrides = [
        "log.level=debug",
        f"store.password={STORE}",
        f'access.tokens=[{{"name": "probe", "token_hash": "sha256:{DIGEST}"}}]',
        f"access.client_token={CLIENT}",
        f'notify.receivers={{"operators": {{"url": "json://user:{RECEIVER}@127.0.0.1:9/{RECEIVER}"}}}}',
    ]
    answers = []
    with services.running(tmp_path, *overrides) as service:
        web, sql = service.ready["web"], service.ready["sql"]
        for headers in ({}, wrong, {"Authorization": f"Bearer {TOKEN}"}, {"X-ClickHouse-Key": CLIENT}):
            answers += [_get(f"{web}{path}", headers) for path in ("/", "/health", "/metrics", "/nothing")]
            answers += [_get(f"{sql}/?query=SELECT+nope", headers)]
        answers += [_get(f"{sql}/?query=SELECT+1&user=ann&password={PASSWORD}", {})]
        assert service.stop() == 0
        log = json.dumps(service.log)
    assert any(answer.startswith("401") for answer in answers)
    assert '"status":"ok"' in answers[1].replace(" ", "")
    assert_none("".join(answers))
    assert_none(log)
