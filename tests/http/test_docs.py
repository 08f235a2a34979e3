"""docs/security.md names settings, commands and limits that exist."""

from __future__ import annotations

import re
from pathlib import Path

from collector.__main__ import COMMANDS
from collector.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/security.md").read_text("utf-8")


def test_every_setting_that_is_named_exists() -> None:
    named = re.findall(r"`(access|listen|store|web|decode|sql)\.([a-z_]+)", TEXT)
    assert len(named) > 15
    for section, key in named:
        assert key in Settings.model_fields[section].annotation.model_fields, f"{section}.{key}"  # type: ignore[union-attr]


def test_defaults_of_the_table_are_those_of_the_settings() -> None:
    sql = Settings().sql
    assert (sql.max_seconds, sql.max_queries) == (60, 4)
    assert (sql.max_memory_bytes, sql.max_disk_bytes) == (512 * 2**20, 2 * 2**30)
    assert (sql.max_result_rows, sql.max_result_bytes) == (1_000_000, 256 * 2**20)
    assert sql.max_request_bytes == 2**20


def test_commands_and_files_exist() -> None:
    for command in re.findall(r"`vmflow ([a-z]+)", TEXT):
        assert command in COMMANDS, command
    for file in re.findall(r"`((?:tests|deploy|docs)/[\w./-]+)`", TEXT):
        assert (ROOT / file).exists(), file
