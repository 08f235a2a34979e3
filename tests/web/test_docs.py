"""docs/api.md and docs/notifications.md say what the API, the command and the actions do."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from collector.__main__ import _parser
from collector.metrics import Metrics
from collector.notify.actions import Actions
from collector.notify.settings import ActionSettings, NotifySettings
from collector.settings import load
from tests.web.support import Served

DOCS = Path(__file__).parents[2] / "docs"
TEXT = "\n## \n".join((DOCS / name).read_text("utf-8") for name in ("api.md", "notifications.md"))


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(title: str, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)
    assert found
    return found


def test_the_routes_are_those_of_the_api(server: Served) -> None:
    api = server.get("/api/openapi.json").json
    documented = re.findall(r"^\| `(GET|POST) (\S+)` \| (.*) \|$", section("Routes"), re.MULTILINE)

    assert {(method, path) for method, path, _ in documented} == {
        (method.upper(), path) for path, methods in api["paths"].items() for method in methods
    }
    for method, path, text in documented:
        about = api["paths"][path][method.lower()]
        queries = [one["name"] for one in about.get("parameters", []) if one["in"] == "query"]
        for name in queries:
            assert re.search(rf"`{name}\b", text), (path, name)


@pytest.mark.parametrize("example", blocks("Examples", "sh"))
def test_the_requests_work(server: Served, example: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing: apt-get install curl")
    words = shlex.split(example.replace("\\\n", "").replace("http://127.0.0.1:8080", server.url))

    said = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=60).stdout)

    assert set(said) in ({"alerts", "next_cursor"}, {"silence_id"}, {"rules"})


@pytest.mark.parametrize("line", "".join(blocks("On the command line", "sh")).splitlines())
def test_the_commands_are_understood(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]

    assert _parser(words).parse_args(words).command == "alerts"


def test_the_example_of_actions_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "vmflow.toml"
    file.write_text("".join(blocks("Actions", "toml")))

    settings = load(file)

    assert settings.notify.actions_enabled
    assert {name: action.kind for name, action in settings.notify.actions.items()} == {
        "open_ticket": "webhook", "capture": "command",
    }  # fmt: skip


def test_settings_of_actions_and_their_defaults() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| .* \|$", section("Actions"), re.MULTILINE)
    documented = {key: default for names, default in rows for key in re.findall(r"`(\w+)`", names)}
    fields = ActionSettings.model_fields

    assert set(documented) == set(fields)
    for name, text in documented.items():
        field = fields[name]
        default = None if field.is_required() or field.default in ((), "") else field.default
        shown = {None: "–", False: "false", ("firing",): "`firing`"}.get(
            default, f"{default:g}" if isinstance(default, int | float) else "?"
        )
        assert text == shown, name


def test_metrics_of_actions() -> None:
    metrics = Metrics()
    Actions(NotifySettings(), metrics, lambda *_: None, None, clock_us=lambda: 0)  # type: ignore[arg-type, return-value]
    for family in metrics.registry.collect():
        assert f"`{family.name}_total`" in section("Metrics")
