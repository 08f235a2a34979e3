"""Actions with real commands and a real HTTP server: what they get, what becomes of them, what the audit says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from collector.metrics import Metrics
from collector.notify.actions import Actions, threads
from collector.notify.settings import ActionSettings, NotifySettings
from collector.settings import InvalidSettingsError, load
from collector.store.client import open_in_database
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.threads import Bridge, run
from schemas.alerts import ACTION_RUNS
from schemas.text import clean
from tests.flow_rows import ask
from tests.notify.support import LOSS, NOON_US, endpoint

HOSTILE = replace(LOSS, labels={"src_vm": "$(touch /tmp/x); -rf `id`\n", "dst_vm": "名"})


@dataclass
class Rows:
    """Keeps the rows that it is offered."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        assert table == "action_runs"
        self.batches.append(batch)
        self.arrived.set()
        return True

    async def ready(self) -> None:
        return

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for batch in self.batches for row in batch.to_pylist()]

    async def until(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(60):
            while len(self.batches) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.rows


@dataclass
class Stage:
    actions: Actions
    audit: Rows
    metrics: Metrics


@asynccontextmanager
async def running(drain: float = 5, enabled: bool = True, **actions: ActionSettings) -> AsyncIterator[Stage]:
    settings = NotifySettings(actions_enabled=enabled, actions=actions, drain_seconds=drain)
    metrics, audit = Metrics(), Rows()
    async with (
        Bridge({"act": threads(settings)}) as bridge,
        Actions(settings, metrics, partial(bridge.call, "act"), audit, clock_us=lambda: NOON_US) as made,
    ):
        yield Stage(made, audit, metrics)


def command(*argv: str, **values: Any) -> ActionSettings:
    return ActionSettings(**{"kind": "command", "rules": ("pair_loss",), "argv": argv, **values})


def python(code: str, *arguments: str, **values: Any) -> ActionSettings:
    return command(sys.executable, "-c", code, *arguments, **values)


def once(action: ActionSettings, count: int = 1) -> list[dict[str, Any]]:
    """The audit after so many alerts."""

    async def main() -> list[dict[str, Any]]:
        async with running(drain=5, it=action) as stage:
            for _ in range(count):
                stage.actions.offer(HOSTILE)
            return await stage.audit.until(count)

    return run(main())


def wait_for_end(number: str) -> None:
    """Wait until no process with this number runs; who has nobody to ask for it may stay a zombie."""
    deadline = time.monotonic() + 30
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{number}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_command_gets_the_alert_as_data_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMFLOW_STORE__PASSWORD", "pa55word")
    code = "import json, os, sys; print(json.dumps([json.load(sys.stdin), dict(os.environ), sys.argv[1:]]))"
    arguments = ("$ALERT_RULE", "{rule}", "; id")

    (row,) = once(python(code, *arguments, max_output_bytes=65_536))

    given, environment, got = json.loads(row["output"])
    assert got == list(arguments)
    assert (given["action"], given["labels"], given["value"]) == ("it", dict(HOSTILE.labels), LOSS.value)
    assert environment["ALERT_LABEL_SRC_VM"] == clean(HOSTILE.labels["src_vm"])
    assert environment["ALERT_EVENT"] == "firing"
    assert not [name for name in environment if name.startswith("VMFLOW_")]
    assert (row["result"], row["status"], row["kind"], row["rule"]) == ("ok", "exit 0", "command", "pair_loss")
    assert row["alert_id"] == LOSS.alert_id
    assert json.loads(row["target"])[-3:] == list(arguments)


@pytest.mark.parametrize(
    ("code", "result", "status", "output"),
    [
        ("import sys; print('no'); sys.exit(3)", "failed", "exit 3", "no\n"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "signal 9", ""),
        ("import sys; sys.stderr.write('x' * 10**6)", "ok", "exit 0", "x" * 100),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\0')", "ok", "exit 0", "\\xff\\x00"),
        ("import sys; sys.stdout.buffer.write(b'one\\n\\x1b[2Jtwo\\r\\n')", "ok", "exit 0", "one\n\\x1b[2Jtwo\n"),
    ],
)
def test_how_a_command_ends(code: str, result: str, status: str, output: str) -> None:
    (row,) = once(python(code, max_output_bytes=100))

    assert (row["result"], row["status"], row["output"]) == (result, status, output)


def test_a_command_need_not_read_the_alert() -> None:
    """It may end before the alert is written, or after a part of one that is larger than the pipe."""
    many = {f"label_{number}": "x" * 4000 for number in range(50)}

    async def main() -> None:
        async with running(it=command("/bin/true", per_minute=600)) as stage:
            for number in range(100):
                stage.actions.offer(replace(LOSS, labels=many if number % 2 else {}))
            assert {(row["result"], row["status"]) for row in await stage.audit.until(100)} == {("ok", "exit 0")}

    run(main())


def test_a_program_that_is_not_there() -> None:
    (row,) = once(command("/nonexistent/program"))

    assert (row["result"], row["status"]) == ("failed", "")
    assert row["output"] == "cannot be run: No such file or directory"


def test_what_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    child = "child = os.fork() or time.sleep(600)"
    code = f"import os, time; {child}; open({str(file)!r}, 'w').write(str(child)); time.sleep(600)"

    (row,) = once(python(code, timeout_seconds=2))

    assert row["result"] == "late"
    wait_for_end(file.read_text())


def test_what_leaves_the_session_holds_nobody(tmp_path: Path) -> None:
    """A daemon that keeps the output open: the run ends at its time limit, and the next one goes on."""
    file = tmp_path / "pids"
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    open({str(file)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "    time.sleep(600)\n"
    )

    rows = once(python(code, timeout_seconds=1), count=2)

    assert [row["result"] for row in rows] == ["late", "late"]
    for number in file.read_text().split():
        os.kill(int(number), 9)


def test_a_dry_run_runs_nothing(tmp_path: Path) -> None:
    (row,) = once(command("/usr/bin/touch", str(tmp_path / "x"), dry_run=True))

    assert row["result"] == "dry_run"
    assert json.loads(row["target"]) == ["/usr/bin/touch", str(tmp_path / "x")]
    assert list(tmp_path.iterdir()) == []


def test_the_rate_is_limited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The audit has each; the log one line for all that were not run."""
    caplog.set_level("INFO", "vmflow")
    rows = once(python(f"open({str(tmp_path / 'x')!r}, 'a').write('.')", per_minute=2), count=5)

    assert [row["result"] for row in rows] == ["ok", "ok", "limited", "limited", "limited"]
    assert (tmp_path / "x").read_text() == ".."
    assert [record.message for record in caplog.records] == ["action", "action", "action not run: too often"]


def test_only_what_it_is_for_makes_it_run(tmp_path: Path) -> None:
    async def main() -> None:
        touch = python(f"open({str(tmp_path / 'x')!r}, 'a').write('.')", events=("resolved",))
        async with running(it=touch) as stage:
            stage.actions.offer(LOSS)
            stage.actions.offer(replace(LOSS, rule="pair_latency", event="resolved"))
            stage.actions.offer(replace(LOSS, event="resolved"))
            await stage.audit.until(1)
            assert stage.metrics.value("action_runs_total", action="it", result="ok") == 1
        async with running(enabled=False, it=touch) as stage:
            stage.actions.offer(replace(LOSS, event="resolved"))
        assert stage.audit.rows == []

    run(main())
    assert (tmp_path / "x").read_text() == "."


def test_a_stop_kills_what_runs_and_notes_what_waits(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    async def main() -> list[dict[str, Any]]:
        async with running(drain=0.1, it=python(code)) as stage:
            stage.actions.offer(LOSS)
            stage.actions.offer(LOSS)
            async with asyncio.timeout(60):
                while not file.exists() or not file.read_text():  # noqa: ASYNC110 - another process writes it
                    await asyncio.sleep(0.01)
        return stage.audit.rows

    rows = run(main())

    assert sorted((row["result"], row["output"]) for row in rows) == [("stopped", "killed"), ("stopped", "not begun")]
    wait_for_end(file.read_text())


@pytest.mark.parametrize(
    ("status", "result", "expected"),
    [(200, "ok", "HTTP 200"), (500, "failed", "HTTP 500"), (302, "failed", "HTTP 302")],
)
def test_a_webhook(status: int, result: str, expected: str) -> None:
    with endpoint(status) as hook:
        url = f"http://{hook.address}/secret"
        (row,) = once(ActionSettings(kind="webhook", rules=("pair_loss",), url=url))  # type: ignore[arg-type]

    (request,) = hook.requests
    assert (request.method, request.path, request.json["labels"]) == ("POST", "/secret", dict(HOSTILE.labels))
    assert (row["result"], row["status"], row["kind"], row["target"]) == (result, expected, "webhook", "127.0.0.1")


def test_a_webhook_that_does_not_answer() -> None:
    with endpoint() as gone:
        pass
    url = f"http://{gone.address}/secret"
    (row,) = once(ActionSettings(kind="webhook", rules=("pair_loss",), url=url))  # type: ignore[arg-type]
    assert (row["result"], row["status"], row["output"]) == ("failed", "", "no answer: NewConnectionError")
    with endpoint(gate_open=False) as silent:
        url = f"http://{silent.address}/secret"
        values = {"kind": "webhook", "rules": ("pair_loss",), "url": url, "timeout_seconds": 0.2}
        (row,) = once(ActionSettings(**values))  # type: ignore[arg-type]
    assert (row["result"], row["status"]) == ("late", "")


def test_the_store_takes_the_audit(embedded_store: StoreSettings) -> None:
    async def main() -> pa.RecordBatch:
        async with running(it=python("print('done')")) as stage:
            stage.actions.offer(LOSS)
            await stage.audit.until(1)
            return stage.audit.batches[0]

    batch = run(main())
    with open_in_database(embedded_store) as client:
        insert(client, ACTION_RUNS, [batch], "token")
        (row,) = ask(client, "SELECT action, kind, result, event, rule, status, output, time FROM action_runs")

    assert {name: row[name] for name in ("action", "kind", "result", "event", "rule", "status", "output")} == {
        "action": "it", "kind": "command", "result": "ok", "event": "firing", "rule": "pair_loss",
        "status": "exit 0", "output": "done\n",
    }  # fmt: skip
    assert str(row["time"]).startswith("2025-11-25 12:00:00")


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"kind": "command", "argv": ["ls"]}, "notify.actions.a: argv: the absolute path of a program"),
        ({"kind": "command", "argv": ["/bin/ls"], "url": "http://x/"}, "kind = 'command': argv is expected, not url"),
        ({"kind": "webhook", "argv": ["/bin/ls"]}, "kind = 'webhook': url, url_file or url_env is expected, not argv"),
        ({"kind": "webhook"}, "exactly one of url, url_file, url_env is expected, not none"),
        ({"kind": "webhook", "url": "ftp://pa55word@x/"}, "one URL that begins with http:// or https:// is expected"),
        ({"kind": "webhook", "url": ["http://x/pa55word"]}, "notify.actions.a.url: Input should be a valid string"),
        ({"kind": "mail"}, "notify.actions.a.kind = 'mail': Input should be 'command' or 'webhook'"),
        (
            {"kind": "command", "argv": ["/bin/ls"], "rules": ["pair_los"]},
            "notify.actions.a.rules: no rule 'pair_los'; ",
        ),
        ({"kind": "command", "argv": ["/bin/ls"], "per_minute": 0}, "notify.actions.a.per_minute = 0: Input should be"),
        (
            {"kind": "command", "argv": ["/bin/ls"], "events": ["notified"]},
            "notify.actions.a.events.0 = 'notified': Input should",
        ),
    ],
)
def test_mistakes_are_reported(action: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidSettingsError) as caught:
        load(None, [f"notify.actions={json.dumps({'a': {'rules': ['pair_loss'], **action}})}"])

    assert expected in str(caught.value)
    assert "pa55word" not in str(caught.value)


def test_without_its_launcher_a_command_fails_and_the_service_goes_on() -> None:
    async def main() -> list[dict[str, Any]]:
        async with running(it=python("print('ran')")) as stage:
            stage.actions.offer(HOSTILE)
            await stage.audit.until(1)
            process = stage.actions._launcher._process
            assert process is not None
            process.kill()
            process.wait(30)
            stage.actions.offer(HOSTILE)
            return await stage.audit.until(2)

    expected = [(row["result"], row["output"]) for row in run(main())]
    assert expected == [("ok", "ran\n"), ("failed", "the launcher of commands has ended: restart the service")]


def test_a_command_ends_with_a_service_that_is_killed(tmp_path: Path) -> None:
    """The launcher sees the end of its socket, whatever ended the other side."""
    code = f"""
from tests.notify.test_actions import HOSTILE, python, running, run
async def main():
    write = "import os, time; open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    async with running(it=python(write, timeout_seconds=600)) as stage:
        stage.actions.offer(HOSTILE)
        await stage.audit.until(1)
run(main())
"""
    service = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not (file := tmp_path / "pid").exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service.kill()
    service.wait(30)

    wait_for_end(file.read_text())
