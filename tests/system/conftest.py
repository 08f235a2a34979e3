"""System tests: real daemons, in namespaces.  They run where VMFLOW_SYSTEM is 1, and then none may be skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.system import guests as made_guests
from tests.system.testbed import Testbed, missing

REQUIRED = os.environ.get("VMFLOW_SYSTEM") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the system tests out unless they are asked for."""
    if REQUIRED:
        return
    for item in items:
        if item.get_closest_marker("system"):
            item.add_marker(pytest.mark.skip(reason="starts daemons as root: `make test-system` runs these"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where system tests are asked for, one that skips has failed: something was not installed."""
    report = yield
    if REQUIRED and report.skipped and item.get_closest_marker("system"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but VMFLOW_SYSTEM=1 asks for it: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """Two hypervisors with three VMs each."""
    if reason := missing():
        pytest.skip(reason)
    made = Testbed("vmflow")
    try:
        made.run("up")
        yield made
    finally:
        made.run("down")


@pytest.fixture(scope="session")
def guests() -> Iterator[None]:
    """Two hypervisors with a QEMU guest each."""
    if reason := made_guests.missing():
        pytest.skip(reason)
    try:
        made_guests.TESTBED.run("up")
        made_guests.vm("up")
        yield
    finally:
        made_guests.TESTBED.run("down")
