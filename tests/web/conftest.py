"""One server for the tests of a module: ten pairs, of which the fourth and the fifth lose."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from collector.alert.settings import AlertSettings, Route
from collector.store.settings import StoreSettings
from tests.alert.support import traffic
from tests.flow_rows import add, store, vm
from tests.web.support import Served, served

_numbers = count(1)
NAMES = [f"vm{number}" for number in range(11)]


@pytest.fixture(scope="module")
def server(store_directory: Path) -> Iterator[Served]:
    """Pairs vm3→vm4 and vm4→vm5 lose 20 % from the first window to the last; four windows are closed."""
    settings = StoreSettings(url=f"chdb://{store_directory}", database=f"api_{next(_numbers)}")
    with store(settings) as client:
        vms = [vm(name, f"host-{number % 3}") for number, name in enumerate(NAMES)]
        rows = []
        for number in range(10):
            rows += traffic(vms[number], vms[number + 1], range(100), 200 if number in (3, 4) else 0)
        add(client, rows)
        alerts = AlertSettings(routes=(Route(receivers=("mail",)),), settle_seconds=0, group_by="none")
        with served(settings, alerts) as running:
            running.close("10s", range(4))
            yield running
