"""The settings files of deploy/ are read by the service's own settings, and say what they are meant to say."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from collector.settings import InvalidSettingsError, Settings, load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PORTS = (6343, 2055, 4739)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VMFLOW_")]:
        monkeypatch.delenv(name)


def test_the_example_listens_to_the_network_and_keeps_the_rest_to_itself() -> None:
    settings = load(DEPLOY / "vmflow.toml")

    assert settings.listen.addresses == tuple(f"0.0.0.0:{port}" for port in PORTS)
    assert (settings.web.host, settings.web.port) == ("127.0.0.1", 8080)
    assert settings.store.embedded
    assert settings.decode == Settings().decode


def test_each_commented_line_of_the_example_is_right(tmp_path: Path) -> None:
    """Uncommented, all of them together must still be settings: a key that was renamed fails here."""
    lines = [re.sub(r"^# (?=[a-z_]+ = )", "", line) for line in (DEPLOY / "vmflow.toml").read_text().splitlines()]
    everything = tmp_path / "vmflow.toml"
    everything.write_text("\n".join(lines))
    given = {f"{section}.{key}" for section, keys in tomllib.loads(everything.read_text()).items() for key in keys}

    settings = load(everything)

    assert given == {
        "access.users", "access.tokens", "access.names", "access.certificate_file", "access.key_file",
        "notify.actions_enabled", "notify.actions",
        "alerts.routes",
        "analyze.traffic_metrics",
        "confine.mode", "confine.read", "confine.connect",
        "notify.receivers",
        "inventory.libvirt",
        "inventory.ovsdb",
        "inventory.openstack",
        "inventory.static",
        "listen.addresses", "listen.receive_buffer_bytes", "listen.sockets", "listen.streams",
        "listen.certificate_file", "listen.key_file", "listen.client_ca_file",
        "decode.allow", "decode.share_templates_between_domains", "decode.exporters",
        "rollup.service", "rollup.key_file",
        "store.url", "store.user", "store.spool_bytes", "store.ttl_days", "store.interface_speeds",
        "store.cluster", "store.shared",
        "web.host", "web.port",
    }  # fmt: skip
    assert settings.listen.receive_buffer_bytes == Settings().listen.receive_buffer_bytes
    assert settings.store.ttl_days == {"flows": 14, "interface_counters": 90}
    assert settings.inventory.libvirt[0].uri == "qemu+ssh://vmflow@hv1/system"


def test_a_misspelt_key_would_be_noticed(tmp_path: Path) -> None:
    wrong = tmp_path / "vmflow.toml"
    wrong.write_text((DEPLOY / "vmflow.toml").read_text().replace("addresses =", "adresses ="))

    with pytest.raises(InvalidSettingsError, match=r"listen\.adresses: no such setting"):
        load(wrong)


def test_the_sysctl_file_grants_what_the_listener_asks_for() -> None:
    given = dict(re.findall(r"^(\S+) = (\d+)$", (DEPLOY / "sysctl.d/90-vmflow.conf").read_text(), re.MULTILINE))

    assert int(given["net.core.rmem_max"]) == Settings().listen.receive_buffer_bytes


def test_the_container_keeps_its_data_on_the_volume() -> None:
    settings = load(DEPLOY / "container.toml")

    assert settings.store.url == "chdb:///var/lib/vmflow/store"
    assert settings.decode.template_file == Path("/var/lib/vmflow/templates.json")
    assert settings.listen.addresses == tuple(f"0.0.0.0:{port}" for port in PORTS)


def test_composed_it_writes_to_the_clickhouse_server(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["vmflow"]["environment"]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    settings = load(DEPLOY / "container.toml")

    assert settings.store.url == "http://clickhouse:8123"
    assert (settings.store.user, settings.store.database) == ("vmflow", "vmflow")
    assert not settings.store.embedded
