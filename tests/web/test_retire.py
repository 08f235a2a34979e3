"""Exporters that were taken away on purpose: over the API and by the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.__main__ import main
from collector.alert.settings import AlertSettings
from collector.store.settings import StoreSettings
from tests.alert.test_stage import report
from tests.flow_rows import BEGIN_US, add, store
from tests.web.support import Served, served


@pytest.fixture(scope="module")
def exporters(store_directory: Path) -> Iterator[Served]:
    """Three senders of IPFIX, heard for four minutes."""
    settings = StoreSettings(url=f"chdb://{store_directory}", database="retire")
    with store(settings) as client:
        rows = [
            report(BEGIN_US + second * 1_000_000, f"192.0.2.{host}", 1)
            for second in range(10, 241, 10)
            for host in (1, 2, 3)
        ]
        add(client, rows, "exporters")
        with served(settings, AlertSettings(settle_seconds=0)) as running:
            running.close("1m", range(4))
            yield running


def test_over_the_api(exporters: Served) -> None:
    body = {"exporter": "::ffff:192.0.2.1", "protocol": "ipfix", "who": "ann", "comment": "old host"}

    first, again = (exporters.post("/api/v1/exporters/retire", body) for _ in range(2))

    assert first.json == {"retired": [{"exporter": "192.0.2.1", "agent": "::", "domain": "0", "protocol": "ipfix"}]}
    assert again.status == 404
    (alert,) = exporters.get("/api/v1/alerts?rule=exporter_absent").json["alerts"]
    assert (alert["state"], alert["resolved_by"], alert["labels"]["exporter"]) == ("resolved", "ann", "192.0.2.1")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"exporter": "host-1"}, "does not appear to be an IPv4 or IPv6 address"),
        ({"exporter": "192.0.2.1", "protocol": "netflow"}, "protocol"),
        ({"exporter": "192.0.2.1", "domain": -1}, "domain"),
    ],
)
def test_mistakes_are_reported(exporters: Served, body: dict[str, object], expected: str) -> None:
    answer = exporters.post("/api/v1/exporters/retire", body | {"who": "ann"})

    assert answer.status == 422
    assert expected in " ".join(answer.json["errors"])


def test_by_the_command(exporters: Served, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["exporters", "retire", "192.0.2.2", "--url", exporters.url, "--who", "ann"]

    assert main(arguments) == 0
    assert capsys.readouterr().out == "not expected any more: 192.0.2.2 ipfix, domain 0\n"
    assert main(arguments) == 1
    assert "no such exporter is expected" in capsys.readouterr().err
    assert main([*arguments[:2], "host-1", *arguments[3:]]) == 2
    assert "does not appear to be an IPv4 or IPv6 address" in capsys.readouterr().err
