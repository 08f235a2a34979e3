"""The console: its files and headers, its questions, and the page itself in a real browser.

The browser is Debian's chromium.  What every page must not do is checked at the end of each test: break the policy of
the page, write an error, ask another host, or get a 5xx.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from collector.alert.settings import AlertSettings, Route
from collector.analyze.figures import read_due, store_window
from collector.store.settings import StoreSettings
from collector.store_reader import Bounds
from collector.web import pages, questions
from tests.alert.support import traffic
from tests.flow_rows import BEGIN_US, add, ask, store, vm
from tests.http.test_login import PASSWORD, SETTINGS
from tests.web.support import Served, served

CONSOLE = Path(__file__).resolve().parents[2] / "console"
CHROMIUM = shutil.which("chromium")
HOSTILE = ("<img src=x onerror=alert(1)>", "\u202egnp.exe' OR 1=1 --\"%", "x" * 200)
BEGIN = BEGIN_US // 1_000_000
WAIT_MS = 30_000
PATHS = (
    "/", "/alerts?state=all", "/pairs", "/pairs/vm3/vm4", "/vms", "/vms/vm3", "/hosts", "/hosts/host-0", "/interfaces",
    "/interfaces/host-0/vnet0", "/matrix",
    "/paths", "/rules/pair_loss", "/coverage", "/exporters", "/inventory", "/rules", "/service", "/explore",
)  # fmt: skip
needs_page = pytest.mark.skipif(not (pages.BUILT / pages.SHELL).exists(), reason="the page is not built: make page")


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


THEN = f"from={iso(BEGIN)}&until={iso(BEGIN + 120)}"
"""The time of the traffic, as addresses of the page have it: two minutes, whose figures are stored."""


def named(name: str, host: str) -> dict[str, Any]:
    return {**vm("x", host), "vm": name, "uuid": str(UUID(int=abs(hash(name)) % 2**128))}


def poll(name: str, used: int, minute: int, **more: int) -> dict[str, Any]:
    """Counters of a port of 1 Gbit/s that sends so many hundredths of it."""
    octets = 10**9 // 8 * 60 * used // 100
    return {
        "time_received": BEGIN_US + minute * 60_000_000, "source": "sflow", "host": "host-0", "if_index": 3,
        "if_name": name, "if_speed": 10**9, "if_direction": 1, "delta_state": "ok", "interval_us": 60_000_000,
        "in_bytes_delta": octets, "in_unicast_packets_delta": octets // 1000, "vm": "vm0",
    } | more  # fmt: skip


@pytest.fixture(scope="module")
def desk(store_directory: Path) -> Iterator[tuple[Served, Any]]:
    """vm0 to vm5 in a row send 800 kbit/s each; vm3→vm4 loses 20 %; names that are an attack talk to vm0.  No window
    has closed."""
    settings = StoreSettings(url=f"chdb://{store_directory}", database="console")
    with store(settings) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "BOUNDS", Bounds(seconds=60, rows=10_000))  # slow machines must not fail
        vms = [vm(f"vm{number}", f"host-{number % 3}") for number in range(6)]
        rows = []
        for number in range(5):
            rows += traffic(vms[number], vms[number + 1], range(100), 200 if number == 3 else 0)
        for number, name in enumerate(HOSTILE):
            rows += traffic(named(name, f"host-{number % 2 + 1}"), vms[0], range(100))
        add(client, rows)
        add(client, [poll("vnet0", 60, minute) for minute in (1, 2)], "interface_counters")
        add(client, [poll(name, 10, 2, in_discards_delta=7) for name in HOSTILE[:2]], "interface_counters")
        for window in read_due(client, "1m", {"begin": BEGIN, "end": BEGIN + 120}):
            store_window(client, "1m", window, 1, 1)
        alerts = AlertSettings(routes=(Route(receivers=("mail",)),), settle_seconds=0, group_by="none")
        with served(settings, alerts, with_sql=True) as running:
            yield running, client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Debian's package chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright of PyPI")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@contextmanager
def opened(browser: Any, url: str, path: str, *, refused: str = "$^", **options: Any) -> Iterator[Any]:
    """A page of a browser context of its own, which must behave.  The browser reports what is `refused` as an error."""
    context = browser.new_context(locale="en-GB", **options)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page.on(
        "console",
        lambda said: (
            wrong.append(said.text) if said.type in ("error", "warning") and not re.search(refused, said.text) else None
        ),
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(url) else None)
    page.on("response", lambda got: wrong.append(f"{got.status} {got.url}") if got.status >= 500 else None)
    try:
        page.goto(url + path)
        page.wait_for_selector("h1")
        yield page
        assert wrong == []
    finally:
        context.close()


def test_a_browser_gets_the_page_and_a_program_gets_text(desk: tuple[Served, Any]) -> None:
    served, _ = desk
    text = served.get("/")
    shell = served.get("/pairs/a/b", Accept="text/html,*/*;q=0.8")

    assert text.headers["content-type"].startswith("text/plain")
    assert b"/metrics" in text.body
    assert served.get("/nothing").status == 404
    assert served.get("/metrics", Accept="text/html").headers["content-type"].startswith("text/plain")
    if not (pages.BUILT / pages.SHELL).exists():
        assert b"make page" in served.get("/", Accept="text/html").body
        pytest.skip("the page is not built: make page")
    assert shell.status == 200
    policy = shell.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert shell.headers["cross-origin-opener-policy"] == "same-origin"
    assert shell.headers["x-content-type-options"] == "nosniff"
    assert len(shell.headers.get_all("content-security-policy")) == 1  # type: ignore[attr-defined]


@needs_page
def test_files_are_kept_for_ever_and_small(desk: tuple[Served, Any]) -> None:
    served, _ = desk
    shell = served.get("/", Accept="text/html").body.decode()
    found = re.findall(r'"(/page/[0-9a-f]{16}/[a-z.]+)"', shell)
    script = next(path for path in found if path.endswith(".js"))
    answer = served.ask("GET", script, None, {"Accept-Encoding": "gzip"})

    assert len(found) == 3
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-encoding"] == "gzip"
    # All that the overview loads: its script and those that this one imports.
    names = {
        script,
        *(
            script.rpartition("/")[0] + found
            for found in re.findall(r'from"\.(/[\w-]+\.js)"', served.get(script).body.decode())
        ),
    }
    packed = [served.ask("GET", name, None, {"Accept-Encoding": "gzip"}).headers["content-length"] for name in names]
    assert sum(map(int, packed)) <= 70_000
    assert served.get("/page/0123456789abcdef/main.js").status == 404
    assert served.get(re.sub(r"[^/]+$", "../../server.py", script)).status == 404


def test_without_a_built_page_the_service_says_how(tmp_path: Path) -> None:
    from starlette.requests import Request

    empty = pages.Pages(tmp_path)
    empty.load()
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "server": ("a", 80)}

    assert b"make page" in empty.shell(Request(scope)).body


def test_a_question_is_answered_in_columns(desk: tuple[Served, Any]) -> None:
    served, client = desk
    at = BEGIN + 50
    answer = served.get(f"/api/v1/ask/pairs?level=10s&at={at}&sort=certain&limit=3").json
    truth = ask(
        client, f"SELECT * FROM console.pair_metrics WHERE time = toDateTime({at}) ORDER BY loss_low DESC LIMIT 1"
    )[0]

    assert answer["data"]["src_vm"][0] == truth["src_vm"] == "vm3"
    for name in ("loss_ratio", "loss_low", "loss_high", "bits_per_second"):
        assert answer["data"][name][0] == pytest.approx(truth[name])
    assert truth["loss_ratio"] == pytest.approx(0.2)
    assert answer["data"]["every"][0] == 8
    assert "pair_metrics" in answer["sql"]


def test_windows_whose_figures_are_stored_are_read_from_there(desk: tuple[Served, Any]) -> None:
    """The newest window is the newest that is evaluated, however many have rows; others are asked again by name."""
    served, client = desk
    span = f"from={BEGIN}&until={BEGIN + 3600}"
    newest = served.get(f"/api/v1/ask/newest?level=1m&{span}").json["data"]
    pairs = served.get(f"/api/v1/ask/pairs?level=1m&at={BEGIN}&sort=certain").json
    (pair,) = ask(client, "SELECT DISTINCT toString(pair) AS id FROM console.pair_figures_1m WHERE src_vm = 'vm3'")
    series = [
        served.get(f"/api/v1/ask/pair_series?level=1m&{span}&src=vm3&dst=vm4&pair={number}").json["data"]["t"]
        for number in (0, pair["id"], 7)
    ]

    assert newest == {"t": [BEGIN + 60], "found": [2]}
    # A number that JavaScript cannot hold comes as text.
    asked = served.get(f"/api/v1/ask/pair_series?level=1m&{span}&src=a&dst=b&pair={2**64 - 1}")
    assert asked.json["values"]["pair"] == str(2**64 - 1)
    assert asked.json["values"]["from"] == BEGIN
    assert "FROM pair_figures_1m" in pairs["sql"]
    assert (pairs["data"]["src_vm"][0], pairs["data"]["pair_id"][0]) == ("vm3", pair["id"])
    assert series == [[BEGIN, BEGIN + 60], [BEGIN, BEGIN + 60], []]
    assert "1m and 1h only" in served.get(f"/api/v1/ask/vms?level=10s&at={BEGIN}").json["detail"]


def test_sql_of_people_has_the_guard_and_the_limits_of_the_endpoint(desk: tuple[Served, Any]) -> None:
    served, _ = desk

    def answer(sql: str) -> tuple[int, Any]:
        answered = served.post("/api/v1/sql", {"sql": sql})
        return answered.status, answered.json.get("data", answered.json.get("detail"))

    assert answer("SELECT count() > 0 AS some FROM flows") == (200, [[1]])
    assert answer("SELECT 18446744073709551615 AS big") == (200, [["18446744073709551615"]])
    for refused in (
        "DROP TABLE flows",
        "SELECT * FROM file('/etc/passwd')",
        "SELECT 1; SELECT 2",
        "SELECT nonsense",
        "SELECT 1 FORMAT CSV",
    ):
        assert answer(refused)[0] == 422, refused
    assert served.ask("POST", "/api/v1/sql", b"sql=SELECT 1", {"Content-Type": "text/plain"}).status == 415
    # Beyond its limits an answer is refused: broken off, a block more would come, of any size.
    for much in ("SELECT repeat('x', 1000000) FROM numbers(50)", "SELECT number FROM numbers(10001)"):
        answer = served.post("/api/v1/sql", {"sql": much})
        assert answer.status == 422
        assert b"add LIMIT" in answer.body
    assert len(served.post("/api/v1/sql", {"sql": "SELECT number FROM numbers(10000)"}).json["data"]) == 10_000


@pytest.mark.parametrize("query", [
    "pairs?at=1&sort=bits%3BDROP", "pairs?at=x", "pairs?at=1&nonsense=1", "pairs?at=1&limit=100000", "pairs?level=1y",
    f"pair_series?from=0&until={BEGIN}", "nothing", "pairs?only=1%3D1", "pairs?vm=" + "a" * 301,
])  # fmt: skip
def test_questions_take_only_what_they_declare(desk: tuple[Served, Any], query: str) -> None:
    assert desk[0].get(f"/api/v1/ask/{query}").status == 422


def test_answers_are_packed_for_those_who_take_it(desk: tuple[Served, Any]) -> None:
    served, _ = desk
    path = f"/api/v1/ask/pairs?level=1m&at={BEGIN}"
    plain, packed = served.get(path), served.get(path, **{"Accept-Encoding": "gzip"})

    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.body) / 3
    assert packed.json["data"] == plain.json["data"]  # urllib3 unpacks
    assert "content-encoding" not in served.get("/api/v1/session", **{"Accept-Encoding": "gzip"}).headers


def test_text_of_people_is_bound(desk: tuple[Served, Any]) -> None:
    served, _ = desk
    for name in (*HOSTILE, "'; DROP TABLE flows; --", "{at:UInt32}", "\\"):
        answer = served.get(
            f"/api/v1/ask/pair_series?level=10s&from={BEGIN}&until={BEGIN + 100}&src={quote(name)}&dst=vm0"
        )
        assert answer.status == 200
        assert len(answer.json["data"]["t"]) == (10 if name in HOSTILE else 0)


def close_to(value: Any) -> Any:
    """What a page may show for a value of the store."""
    return None if value is None else pytest.approx(value)


def values(page: Any) -> list[list[Any]]:
    """Of each row of the first table: its names, then its values as they were answered."""
    return values_of(page, "main section:first-of-type")


def picture_of(page: Any) -> None:
    """Save the first picture of a page: as wide as what is drawn, with its words above."""
    drawn = page.locator("canvas").first
    with page.expect_download() as saving:
        page.locator("button:has-text('PNG')").first.click()
    content = Path(saving.value.path()).read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > drawn.evaluate("one => one.width")
    assert height > drawn.evaluate("one => one.height") + 30


def values_of(page: Any, part: str) -> list[list[Any]]:
    found: list[list[str]] = page.eval_on_selector_all(
        f"{part} tbody tr",
        "rows => rows.map(row => [...row.querySelectorAll('bdi')].map(one => one.textContent)"
        ".concat([...row.querySelectorAll('[data-value]')].map(one => one.dataset.value)))",
    )
    return [
        [None if one == "null" else float(one) if re.fullmatch(r"[0-9.e+-]+", one) else one for one in row]
        for row in found
    ]


@needs_page
def test_numbers_on_the_pages_are_those_of_sql(desk: tuple[Served, Any], browser: Any) -> None:
    """The last window that is evaluated, on each page that lists figures."""
    served, client = desk
    at = f"time = toDateTime({BEGIN + 60})"

    def truth(columns: str, rest: str) -> dict[Any, Any]:
        rows = ask(client, f"SELECT {columns} FROM console.{rest}")
        return {
            tuple(list(row.values())[: row["keys"]]): [close_to(one) for one in list(row.values())[row["keys"] : -1]]
            for row in rows
        }

    with opened(browser, served.url, f"/pairs?{THEN}") as page:
        page.wait_for_selector("tbody tr")
        wanted = truth("src_vm, dst_vm, bits_per_second, loss_ratio, 2 AS keys", f"pair_figures_1m WHERE {at}")
        assert {(row[0], row[1]): row[-2:] for row in values(page)} == wanted
        assert wanted["vm3", "vm4"] == [close_to(800_000 * 40 / 60), close_to(0.2)]

        page.goto(f"{served.url}/vms?{THEN}")
        page.wait_for_selector("tbody tr")
        both = ", ".join(
            f"anyIf({name}, direction = '{way}') AS {way}_{name}"
            for name in ("bits_per_second", "loss_ratio")
            for way in ("sent", "received")
        )
        wanted = truth(f"vm, {both}, 1 AS keys", f"vm_figures_1m WHERE {at} GROUP BY vm")
        assert {(row[0],): row[-4:] for row in values(page)} == wanted
        assert wanted["vm4",][3] == close_to(0.2)

        page.goto(f"{served.url}/hosts/host-0?{THEN}")
        page.wait_for_selector("section:nth-of-type(2) tbody tr")
        rows = page.eval_on_selector_all(
            "main section:nth-of-type(2) tbody tr",
            "rows => rows.map(row => [...row.querySelectorAll('bdi')].slice(0, 2).map(one => one.textContent)"
            ".concat([...row.querySelectorAll('[data-value]')].map(one => one.dataset.value)))",
        )
        wanted = truth(
            "src_host, dst_host, bits_per_second, loss_ratio, 2 AS keys",
            f"host_figures_1m WHERE {at} AND 'host-0' IN (src_host, dst_host)",
        )
        assert {(row[0], row[1]): [None if one == "null" else float(one) for one in row[2:]] for row in rows} == wanted
        assert len(wanted) >= 3

        page.goto(f"{served.url}/interfaces?{THEN}")
        page.wait_for_selector("tbody tr")
        wanted = truth(
            "interface, host, vm, in_bits_per_second, out_bits_per_second, 3 AS keys",
            f"interface_metrics_1m WHERE {at}",
        )
        assert {tuple(row[:3]): row[3:5] for row in values(page)} == wanted
        assert wanted["vnet0", "host-0", "vm0"] == [close_to(0.6e9), close_to(0)]
        page.click("button[aria-pressed=false]:has-text('only what is wrong')")
        page.wait_for_selector("tbody tr:nth-child(3)", state="detached")
        assert {row[0] for row in values(page)} == set(HOSTILE[:2])
        page.goto(f"{served.url}/interfaces/host-0/vnet0?{THEN}")
        page.wait_for_selector(".plot canvas")
        assert "60 %" in page.inner_text("figure[aria-label=used]")

        page.goto(f"{served.url}/coverage?{THEN}")
        page.wait_for_selector("tbody tr")
        pairs = ask(
            client, f"SELECT count() AS n, sum(bits_per_second) AS bits FROM console.pair_figures_1m WHERE {at}"
        )[0]
        shown = values(page)
        assert sum(row[-1] for row in shown) == pairs["n"]
        assert sum(row[-2] for row in shown) == close_to(pairs["bits"])

        page.goto(f"{served.url}/paths?{THEN}&by=vm")
        page.wait_for_selector("svg rect")
        first = client.query(
            f"SELECT sum(bits_per_second) FROM console.pair_figures_1m WHERE {at} AND src_vm = 'vm3'"
        ).result_rows[0][0]
        assert close_to(first) in [row[-1] for row in values_of(page, "main .card:last-child") if row[0] == "vm3"]
        page.click("svg g[aria-label^='host-0']")
        page.wait_for_selector(".tag:has-text('host-0')")

        # By keyboard from the matrix of VMs to the pair: it loses for certain.
        page.goto(f"{served.url}/matrix?{THEN}&by=vm&colour=loss&wrong=1")
        picture_of(page)
        page.focus("canvas")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(".tip b")
        for _ in range(2 * len(wanted)):
            if "vm3 → vm4" in (here := page.inner_text(".tip b")):
                break
            page.keyboard.press("ArrowRight" if here.startswith("vm3") else "ArrowDown")
        assert "1 lossy" in page.inner_text(".tip")
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:has-text('vm3 → vm4')")
        picture_of(page)


@needs_page
def test_sql_is_written_run_kept_and_saved(desk: tuple[Served, Any], browser: Any) -> None:
    served, _ = desk
    with opened(browser, served.url, f"/pairs?{THEN}") as page:
        page.wait_for_selector("tbody tr")
        page.click("text=SQL of this page")
        page.click("dialog details:has-text('pairs') >> text=SQL →")
        page.wait_for_selector(".cm-content")
        page.keyboard.press("Escape")
        page.click(".cm-content")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("table.result tbody tr")
        assert page.locator("table.result tbody tr").count() == 8
        page.fill("input[aria-label='name to keep it']", "mine <b>")
        page.click("button[type=submit]")
        page.click(".cm-content")
        page.keyboard.press("Control+A")
        page.keyboard.type("SELECT '=1+1' AS a, NULL AS b, 'x,y' AS c")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("table.result th:has-text('c')")
        with page.expect_download() as saving:
            page.click("text=CSV")
        assert Path(saving.value.path()).read_bytes() == b'a,b,c\r\n\'=1+1,,"x,y"\r\n'
        page.reload()
        page.click("bdi:has-text('mine <b>')")
        page.click("button.main")
        page.wait_for_selector("table.result th:has-text('src_vm')")


@needs_page
def test_an_alert_is_seen_and_taken_on_by_keyboard_while_another_browser_looks(
    desk: tuple[Served, Any], browser: Any
) -> None:
    served, _ = desk
    with opened(browser, served.url, f"/?{THEN}") as mine, opened(browser, served.url, f"/alerts?{THEN}") as theirs:
        theirs.wait_for_selector(".empty")
        assert mine.locator(".banner").count() == 0
        served.close("10s", range(8))
        mine.wait_for_selector(".banner")
        assert "vm3" in mine.inner_text(".banner")
        theirs.wait_for_selector("tbody tr.firing")

        mine.keyboard.press("g")
        mine.keyboard.press("a")
        mine.wait_for_selector("tr.here")
        mine.keyboard.press("a")
        mine.fill("input[name=who]", "ann")
        mine.keyboard.press("Tab")
        mine.keyboard.type("looking <b>at</b> hv-2")
        mine.keyboard.press("Enter")
        mine.wait_for_selector("tr.acknowledged")
        mine.wait_for_selector(".banner", state="detached")

        theirs.wait_for_selector("tr.acknowledged")
        theirs.click("tr.acknowledged a")
        theirs.wait_for_selector("text=looking <b>at</b> hv-2")
        assert "ann" in theirs.inner_text("main")

        # From it to its cause: the others do not lose, so it is this pair; a click leads to those beside it.
        theirs.wait_for_selector(".verdict:has-text('it is this one')")
        theirs.wait_for_selector("text=No VM moved")
        theirs.click("a:has-text('other VMs, \u2068host-0')")
        theirs.wait_for_selector("main .tag:has-text('host-0')")
        theirs.wait_for_selector("tbody tr:has-text('vm0')")

        mine.click("tr.acknowledged a")
        mine.click("button:text-is('end')")
        mine.select_option("form select", "false")
        mine.click("form button.main")
        mine.wait_for_selector(".tag:has-text('Right to fire? no')")
        mine.click("button:text-is('judge')")  # on second thoughts
        mine.select_option("form select", "true")
        mine.click("form button.main")
        mine.wait_for_selector(".tag:has-text('Right to fire? yes')")


@needs_page
def test_a_rule_is_tried_with_another_limit(desk: tuple[Served, Any], browser: Any) -> None:
    served, _ = desk
    with opened(browser, served.url, "/rules", refused="status of 422") as page:
        page.click("a:has-text('pair_loss'):not(:has-text('lasting'))")
        page.wait_for_selector("textarea")
        for limit, told in (("0.01", "1 alerts of 1 series"), ("0.9", "0 alerts of 0 series")):
            page.fill("textarea", f'[[alerts.rules]]\nname = "mine"\nscope = "pair"\nlevel = "1m"\n'
                      f'measure = "loss_ratio"\nabove = {limit}\n')  # fmt: skip
            page.select_option("select", "21600")
            page.click("button[type=submit]")
            page.wait_for_selector(f"main:has-text('{told}')")
        with page.expect_response(lambda answer: answer.status == 422):
            page.fill("textarea", "[[alerts.rules]]")
            page.click("button[type=submit]")
        page.wait_for_selector(".problem:has-text('name: Field required')")


@needs_page
def test_what_cannot_be_asked_is_not_called_empty(desk: tuple[Served, Any], browser: Any) -> None:
    served, _ = desk
    with opened(browser, served.url, f"/pairs?{THEN}", refused="status of 4") as page:
        page.wait_for_selector("tbody tr")
        page.route(
            "**/api/v1/ask/newest*",
            lambda route: route.fulfill(status=422, json={"detail": "no answer", "status": 422}),
        )
        page.route("**/health", lambda route: route.fulfill(status=403, json={"detail": "not for you", "status": 403}))
        page.goto(f"{served.url}/coverage?{THEN}")
        page.wait_for_selector(".problem:has-text('no answer')")
        assert "no window" not in page.inner_text("body")
        page.goto(f"{served.url}/service")
        page.wait_for_selector(".problem:has-text('not for you')")


@needs_page
def test_another_subject_never_stands_over_the_figures_of_the_last(desk: tuple[Served, Any], browser: Any) -> None:
    served, _ = desk
    with opened(browser, served.url, f"/vms/vm3?{THEN}") as page:
        page.wait_for_selector(".chart canvas")
        page.route("**/api/v1/ask/vm_series*", lambda route: None)  # never answered
        page.evaluate(
            "history.pushState(null, '', location.href.replace('vm3', 'vm0')); dispatchEvent(new Event('popstate'))"
        )
        page.wait_for_selector("h1:has-text('vm0')")
        assert page.locator(".chart canvas").count() == 0
        page.unroute_all(behavior="ignoreErrors")
        # A step of a path is a name, too.
        page.evaluate("history.pushState(null, '', '/vms/~..'); dispatchEvent(new Event('popstate'))")
        page.wait_for_selector("h1 bdi:text-is('..')")
        page.reload()
        page.wait_for_selector("h1 bdi:text-is('..')")


@needs_page
@pytest.mark.parametrize("name", HOSTILE, ids=("html", "rtl", "long"))
def test_hostile_names_are_text(desk: tuple[Served, Any], browser: Any, name: str) -> None:
    served, _ = desk
    quoted = quote(name, safe="")
    pages_of_it = (f"/?{THEN}", f"/pairs/{quoted}/vm0?{THEN}", f"/vms/{quoted}?{THEN}", f"/matrix?{THEN}&by=vm")
    for path in pages_of_it:
        with opened(browser, served.url, path, viewport={"width": 360, "height": 800}) as page:
            page.wait_for_selector(".chart, .heat")
            if "/matrix" in path:
                page.focus("canvas")
                page.keyboard.press("ArrowRight")  # the first cell is of the name that sorts first
                for _ in range(20):
                    if name in page.inner_text(".tip"):
                        break
                    page.keyboard.press("ArrowDown")
            page.wait_for_function(
                "name => [...document.querySelectorAll('bdi')].some(one => one.textContent === name)", arg=name
            )
            assert page.locator("main img").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@needs_page
def test_gaps_are_gaps_and_the_table_behind_a_chart_says_so(desk: tuple[Served, Any], browser: Any) -> None:
    served, _ = desk
    with opened(browser, served.url, f"/pairs/vm3/vm4?{THEN}&level=10s") as page:
        page.wait_for_selector(".chart canvas")
        page.locator("figure[aria-label=Loss] button[aria-pressed]").click()
        cells = page.locator("figure[aria-label=Loss] td[data-value]")
        assert cells.count() == 10
        assert "20 % (" in cells.nth(4).inner_text()
        page.locator("figure[aria-label=Latency] button[aria-pressed]").click()
        assert {cell.inner_text() for cell in page.locator("figure[aria-label=Latency] td[data-value]").all()} == {
            "no data"
        }


@needs_page
@pytest.mark.parametrize("look", ["dark", "light"])
def test_nothing_serious_is_found_by_axe(desk: tuple[Served, Any], browser: Any, look: str) -> None:
    axe = CONSOLE / "node_modules/axe-core/axe.min.js"
    if not axe.exists():
        pytest.skip("needs axe-core of npm: make page")
    served, _ = desk
    script, serious = axe.read_text("utf-8"), {}
    with opened(browser, served.url, "/", color_scheme=look) as page:
        for path in PATHS:
            page.goto(f"{served.url}{path}{'&' if '?' in path else '?'}{THEN}")
            page.wait_for_selector("main .card")
            page.wait_for_selector(".skeleton", state="detached")
            assert page.evaluate("document.documentElement.dataset.theme") == look
            assert (
                page.evaluate("performance.getEntriesByType('resource').filter(one => /ask/.test(one.name)).length")
                <= 8
            )
            page.evaluate(script)
            found = page.evaluate(
                "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa']}).then(ran => ran.violations.map(one => "
                "[one.id, one.impact, one.nodes.map(node => node.html).slice(0, 3)]))"
            )
            if of_path := [one for one in found if one[1] in ("serious", "critical")]:
                serious[path] = of_path
    assert serious == {}


@needs_page
def test_a_person_logs_in_looks_and_logs_out(desk: tuple[Served, Any], browser: Any, store_directory: Path) -> None:
    settings = StoreSettings(url=f"chdb://{store_directory}", database="console")
    with served(settings, AlertSettings(settle_seconds=0), SETTINGS) as guarded:
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{guarded.url}/pairs?{THEN}")
        for password in ("wrong", PASSWORD):
            page.wait_for_selector("input[name=password]")
            page.fill("input[name=name]", "ann")
            page.fill("input[name=password]", password)
            page.keyboard.press("Enter")
            page.wait_for_selector("tbody tr" if password == PASSWORD else ".problem")
        assert page.evaluate("document.cookie") == "", "no script sees it"
        page.click("text=ann ⏻")
        page.wait_for_selector("input[name=password]")
        context.close()


@needs_page
def test_both_languages_serve_the_same_page(desk: tuple[Served, Any], browser: Any) -> None:
    served, _ = desk
    with opened(browser, served.url, f"/pairs?{THEN}") as page:
        page.click("button[lang=zh-Hans]")
        page.wait_for_selector("h1:has-text('虚拟机对')")
        assert page.evaluate("document.documentElement.lang") == "zh-Hans"


def test_units_of_the_page() -> None:
    """The grammar of figures, in the page's own language."""
    node, bundler = shutil.which("node"), CONSOLE / "node_modules/.bin/esbuild"
    if node is None or not bundler.exists():
        pytest.skip("needs node and the page's libraries: make page")
    bundled = subprocess.run(
        [str(bundler), "tests/format.test.ts", "--bundle", "--platform=node", "--format=esm", "--log-level=error"],
        cwd=CONSOLE, capture_output=True, check=True,
    )  # fmt: skip
    ran = subprocess.run(
        [node, "--input-type=module", "-"], input=bundled.stdout, capture_output=True, cwd=CONSOLE, check=False
    )
    assert ran.returncode == 0, ran.stdout.decode() + ran.stderr.decode()


def test_the_lock_file_names_no_host() -> None:
    lock = json.loads((CONSOLE / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
