"""Settings: where they come from, which wins, and what is said of mistakes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from collector.__main__ import main
from collector.commands import common
from collector.commands.check import as_toml
from collector.settings import InvalidSettingsError, load


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("VMFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VMFLOW_CONFIG", "")


def test_the_command_line_wins_over_variables_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "vmflow.toml"
    file.write_text('[web]\nport = 1\nhost = "127.0.0.2"\n[store]\nbatch_rows = 7\n')
    monkeypatch.setenv("VMFLOW_WEB__PORT", "2")
    monkeypatch.setenv("VMFLOW_STORE__BATCH_ROWS", "8")

    settings = load(file, ["store.batch_rows=9"])
    assert (settings.web.host, settings.web.port, settings.store.batch_rows) == ("127.0.0.2", 2, 9)
    assert load(None).web.port == 2


def test_lists_come_as_json() -> None:
    settings = load(None, ['listen.addresses=["127.0.0.1:9", "[::1]:9"]', 'decode.allow=["192.0.2.0/24"]'])

    assert [str(endpoint) for endpoint in settings.listen.endpoints()] == ["127.0.0.1:9", "[::1]:9"]
    assert [str(network) for network in settings.decode.allow] == ["192.0.2.0/24"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("web.prot=1", "web.prot: no such setting; expected one of enabled, host, port; did you mean port?"),
        (
            "wed.port=1",
            "wed: no such setting; expected one of access, alerts, analyze, confine, decode, inventory, listen, "
            "log, notify, rollup, sql, store, web",
        ),
        ("web.port=many", "web.port = 'many'"),
        ("web.port", "section.key=value is expected"),
        ("port=1", "section.key=value is expected"),
        ('listen.addresses=["127.0.0.1"]', "host:port is expected"),
        ("store.url=mysql://x", "must begin with chdb://"),
        ("decode.allow=[1.5]", "decode.allow.0"),
    ],
)
def test_a_mistake_is_reported_with_key_and_expectation(override: str, expected: str) -> None:
    with pytest.raises(InvalidSettingsError) as caught:
        load(None, [override])

    assert expected in str(caught.value)


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettingsError) as caught:
        load(None, ['store.password=["hunter2"]'])

    assert "store.password" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_unknown_section_in_a_variable_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMFLOW_STOER__URL", "x")

    with pytest.raises(InvalidSettingsError, match="no section 'stoer'"):
        load(None)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError, match=r"nowhere\.toml: no such file"):
        load(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[web\nport = 1")
    with pytest.raises(InvalidSettingsError, match=r"broken\.toml"):
        load(broken)


def test_a_dump_can_be_loaded_again_and_hides_secrets(tmp_path: Path) -> None:
    settings = load(None, ["store.password=hunter2", 'decode.exporters=[{"network": "192.0.2.1", "sampling_rate": 8}]'])
    text = as_toml(settings.model_dump(mode="json", exclude_none=True))
    file = tmp_path / "dump.toml"
    file.write_text(text)
    again = load(file, ["store.password=hunter2"])

    assert "hunter2" not in text
    assert tomllib.loads(text)["web"]["port"] == settings.web.port
    assert again.model_dump() == settings.model_dump()


def test_settings_are_found_where_people_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, own = tmp_path / "etc", tmp_path / "own"
    monkeypatch.setattr(common, "MACHINE", machine)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VMFLOW_CONFIG")
    assert common.settings_file() is None

    for place in (machine, tmp_path / ".config", own):
        (place / "vmflow").mkdir(parents=True)
        (place / "vmflow" / "vmflow.toml").touch()
    assert common.settings_file() == own / "vmflow" / "vmflow.toml"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert common.settings_file() == tmp_path / ".config" / "vmflow" / "vmflow.toml"
    (tmp_path / ".config" / "vmflow" / "vmflow.toml").unlink()
    assert common.settings_file() == machine / "vmflow" / "vmflow.toml"

    monkeypatch.setenv("VMFLOW_CONFIG", str(tmp_path / "named.toml"))
    assert common.settings_file() == tmp_path / "named.toml"  # `load` says that there is none
    monkeypatch.setenv("VMFLOW_CONFIG", "")
    assert common.settings_file() is None


def test_check_says_which_file_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.toml"
    file.write_text("[web]\nport = 9100\n", encoding="utf-8")

    assert main(["check", "--config", str(file)]) == 0
    assert f"read from {file}" in capsys.readouterr().out
    assert main(["check"]) == 0
    assert "read from no file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["quer"], "; did you mean query?"),
        (["check", "--dmup"], "unrecognized arguments: --dmup; did you mean --dump?"),
        (["zzz"], "'warmup')"),
        (["check", "--zzz"], "unrecognized arguments: --zzz"),
    ],
)
def test_a_command_that_is_nearly_right_is_named(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.rstrip().endswith(expected)
