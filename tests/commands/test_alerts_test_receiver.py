"""`vmflow alerts test-receiver`: what it sends, what it says, and its exit code."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from collector.__main__ import main
from collector.settings import Settings
from tests.notify.support import endpoint
from tests.notify.test_settings import Wired


@pytest.fixture(autouse=True)
def wired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until collector/settings.py has the section."""
    if "notify" not in Settings.model_fields:
        monkeypatch.setattr("collector.settings.Settings", Wired)


def settings_file(tmp_path: Path, address: str) -> str:
    file = tmp_path / "vmflow.toml"
    file.write_text(
        f'[notify.receivers]\nops = {{url = "json://me:pa55word@{address}/pathsecret", language = "zh"}}\n'
        f'am = {{kind = "alertmanager", url = "http://{address}"}}\n'
        'env = {url_env = "NOT_SET_ANYWHERE"}\n'
    )
    return str(file)


def test_it_sends_a_message_that_says_it_is_a_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint() as server:
        file = settings_file(tmp_path, server.address)
        assert main(["alerts", "test-receiver", "ops", "--config", file]) == 0
        assert main(["alerts", "test-receiver", "am", "--config", file]) == 0

    assert capsys.readouterr().out == "".join(f"{n}: taken; look whether it has arrived\n" for n in ("ops", "am"))
    webhook, alert = server.requests
    assert "这是 vmflow 的测试消息" in webhook.json["message"]
    assert alert.json[0]["labels"]["alertname"] == "vmflow_test"
    assert "This is a test of vmflow" in alert.json[0]["annotations"]["description"]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((403,), "HTTP 403 (would not be tried again)"), ((500,), "HTTP 500 (would be tried again)")],
)
def test_it_says_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], statuses: tuple[int, ...], expected: str
) -> None:
    with endpoint(*statuses) as server:
        assert main(["alerts", "test-receiver", "ops", "--config", settings_file(tmp_path, server.address)]) == 1

    assert capsys.readouterr().err == f"vmflow alerts: ops: not delivered: {expected}\n"


def test_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    assert main(["alerts", "test-receiver", "ops", "--config", settings_file(tmp_path, address)]) == 1

    said = capsys.readouterr()
    assert "Connection refused" in said.err
    assert not any(secret in said.err + said.out for secret in ("pa55word", "pathsecret"))


def test_mistakes_have_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = settings_file(tmp_path, "127.0.0.1:1")
    assert main(["alerts", "test-receiver", "opps", "--config", file]) == 2
    assert main(["alerts", "test-receiver", "env", "--config", file]) == 2
    assert main(["alerts", "test-receiver", "ops"]) == 2

    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "vmflow alerts: no receiver 'opps'; there are am, env, ops"
    assert errors[1] == "vmflow alerts: notify.receivers.env.url_env: variable NOT_SET_ANYWHERE is not set, or empty"
    assert errors[2] == "vmflow alerts: no receiver 'ops'; there are none: set notify.receivers"
