"""The settings of an agent that runs for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.settings import InvalidSettingsError, load

COLLECTOR = 'collector = "https://vmflow.example:8080"\ntoken_file = "/etc/vmflow/agent.token"\n'


def settings(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    return file


def test_the_sessions_of_a_file(tmp_path: Path) -> None:
    found = load(
        settings(tmp_path, f'[agent]\n{COLLECTOR}[[agent.sessions]]\nto = "hv2"\n[[agent.sessions]]\nto = "r"')
    )

    assert [(one.to, one.every_ms, one.reflector) for one in found.sessions] == [
        ("hv2", 1000, "unknown"),
        ("r", 1000, "unknown"),
    ]
    assert found.reflector.listen == ("0.0.0.0:862", "[::]:862")


def test_variables_go_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMFLOW_AGENT__COLLECTOR", "http://127.0.0.1:1/x/")

    assert load(settings(tmp_path, f"[agent]\n{COLLECTOR}")).collector == "http://127.0.0.1:1/x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agent", "agent.toml: "),
        ('[agents]\nx = 1\n', "agents: Extra inputs"),
        ('[agent]\ncollector = "vmflow.example"\n', "agent.collector: https://HOST:PORT is expected"),
        ('[agent]\ncollector = "https://ann:secret@h"\n', "a URL without user"),
        ('[[agent.sessions]]\nto = "hv2"\n', "need agent.collector and agent.token_file"),
        (f'[agent]\n{COLLECTOR}[[agent.sessions]]\nto = "h:99999"\n', "is not HOST or HOST:PORT"),
        (f'[agent]\n{COLLECTOR}[[agent.sessions]]\nto = "h"\noctets = 50\n', "has 88 octets, or 92 and more"),
        (f'[agent]\n{COLLECTOR}[[agent.sessions]]\nto = "h"\nevery_ms = 1\n', "greater than or equal to 5"),
        (
            f'[agent]\n{COLLECTOR}[agent.sender]\npackets_per_second = 1\n' + '[[agent.sessions]]\nto = "h"\n' * 2,
            "2 packets/s together, but agent.sender.packets_per_second is 1",
        ),
        (
            f'[agent]\n{COLLECTOR}[[agent.sessions]]\nto = "h"\noctets = 1400\nevery_ms = 20\n',
            "584,800 bit/s together, but agent.sender.bits_per_second is 500,000",
        ),
        ('[agent.reflector]\nallow = ["nowhere"]\n', "agent.reflector.allow.0"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidSettingsError) as error:
        load(settings(tmp_path, text))

    assert words in str(error.value)
    assert "secret" not in str(error.value)
