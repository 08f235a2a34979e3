"""How the OpenStack source finds its cloud, and what it says where that fails; a hostile or slow API."""

from __future__ import annotations

import builtins
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from collector.inventory.settings import OpenstackSettings
from collector.inventory.sources import openstack_api
from collector.inventory.sources.base import SourceError, SourceSetupError
from collector.inventory.sources.openstack import Openstack
from tests.inventory.sources.openstack_answers.cloud import PASSWORD, Cloud

pytest.importorskip("openstack", reason="needs openstacksdk: pip install 'vmflow[openstack]'")
# The SDK warns of its own code whenever a cloud is read from a file.
pytestmark = pytest.mark.filterwarnings("ignore:Support for InfluxDB:PendingDeprecationWarning")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A cloud where all is well."""
    with Cloud() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's OpenStack, if it has any."""
    import os

    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    from openstack.config import loader

    monkeypatch.setattr(loader, "CONFIG_FILES", [str(tmp_path / "nowhere" / "clouds.yaml")])
    monkeypatch.setattr(loader, "SECURE_FILES", [])


def error_of(file: Path | None, cloud: str = "lab", **more: Any) -> str:
    """The message of the SourceError of a read that fails."""
    source = Openstack(OpenstackSettings(cloud=cloud, config_file=file, **more))
    with pytest.raises(SourceError) as caught:
        source.read()
    source.close()
    assert PASSWORD not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_library_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without openstacksdk: what to install."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "openstack":
            raise ImportError("No module named 'openstack'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SourceSetupError, match=r"pip install 'vmflow\[openstack\]'"):
        Openstack(OpenstackSettings())


def test_unknown_cloud(cloud: Cloud, tmp_path: Path) -> None:
    """A wrong name: the file, and the names in it."""
    file = cloud.write_clouds(tmp_path / "clouds.yaml")
    message = error_of(file, "production")
    assert message.startswith("SourceSetupError: openstack production: cloud 'production' is not known: ")
    assert str(file) in message
    assert message.endswith("known clouds: lab")


def test_no_file(tmp_path: Path) -> None:
    """A file that is missing, and no file at all: where one was looked for."""
    missing = tmp_path / "clouds.yaml"
    assert error_of(missing) == (
        f"SourceSetupError: openstack lab: config_file {missing}: No such file or directory; expected a clouds.yaml"
    )
    message = error_of(None)
    assert "no clouds.yaml in " in message
    assert "/etc/openstack" in message
    assert message.endswith("known clouds: none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"clouds: {{lab: {{auth: {{password: {PASSWORD}", "is no YAML file with clouds in it"),
        ("just words", "not a valid mapping"),
        ("other: {}", "does not have it; known clouds: none"),
        ("clouds: 3", "expected a mapping of names to clouds"),
        ("clouds: {lab: 3}", "expected a mapping of names to clouds"),
        (f"clouds: {{lab: {{auth: {{password: {PASSWORD}}}}}}}", "parameters which were not given: auth_url"),
        (f"clouds: {{lab: {{auth_type: nonsense, auth: {{password: {PASSWORD}}}}}}}", "nonsense"),
    ],
)
def test_file_with_mistakes(tmp_path: Path, text: str, expected: str, caplog: pytest.LogCaptureFixture) -> None:
    """No YAML, no clouds, credentials that are not complete: an error that says so, without the password."""
    file = tmp_path / "clouds.yaml"
    file.write_text(text)
    message = error_of(file)
    assert message.startswith("SourceSetupError: openstack lab: ")
    assert str(file) in message
    assert expected in message
    assert PASSWORD not in caplog.text


def test_environment(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file, the OS_ variables are the cloud."""
    for name, value in {
        "OS_AUTH_URL": f"{cloud.url}/identity",
        "OS_USERNAME": "monitor",
        "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_ID": "default",
        "OS_PROJECT_DOMAIN_ID": "default",
    }.items():
        monkeypatch.setenv(name, value)
    source = Openstack(OpenstackSettings())
    assert len(source.read().interfaces) == 4
    source.close()


def test_wrong_password(cloud: Cloud, tmp_path: Path) -> None:
    """Credentials that are refused: which service refused them, not what they are."""
    file = cloud.write_clouds(tmp_path / "clouds.yaml")
    file.write_text(file.read_text().replace(PASSWORD, "hunter-2-hunter"))
    message = error_of(file)
    assert "credentials are not accepted" in message
    assert "hunter" not in message


def test_no_neutron(cloud: Cloud, tmp_path: Path) -> None:
    """A cloud without Neutron has nothing to tell."""
    cloud.services.discard("network")
    file = cloud.write_clouds(tmp_path / "clouds.yaml")
    assert error_of(file).endswith(
        "network /ports: the cloud has no network service in region one, and clouds.yaml no network_endpoint_override"
    )


def test_service_switched_off(cloud: Cloud, tmp_path: Path) -> None:
    """`has_compute: false` in clouds.yaml is respected."""
    file = cloud.write_clouds(tmp_path / "clouds.yaml", has_compute=False)
    source = Openstack(OpenstackSettings(cloud="lab", config_file=file))
    assert {interface.vm for interface in source.read().interfaces} == {""}
    assert not any(path.startswith("/compute") for path in cloud.asked)
    source.close()


def test_certificate_file_missing(tmp_path: Path) -> None:
    """A `cacert` that is not there is named, not a crash."""
    file = tmp_path / "clouds.yaml"
    file.write_text(
        "clouds: {lab: {auth_type: none, network_endpoint_override: 'https://127.0.0.1:1', cacert: /nowhere/ca.pem}}"
    )
    assert "/nowhere/ca.pem" in error_of(file)


def test_user_in_address_is_hidden(tmp_path: Path) -> None:
    """A password within an address does not get into the message."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://me:{PASSWORD}@127.0.0.1:{closed.getsockname()[1]}"
        file = tmp_path / "clouds.yaml"
        file.write_text(f"clouds: {{lab: {{auth_type: none, network_endpoint_override: '{endpoint}'}}}}")
        assert "Connect" in error_of(file)


class Raw:
    """A Neutron that answers with what `body` yields, whatever it is asked."""

    def __init__(self, status: int, *parts: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.set()
                self.send_response(status)
                self.end_headers()
                for part in parts:
                    try:
                        self.wfile.write(part)
                    except OSError:
                        return  # the client has had enough
                outer.hold.wait()

            def log_message(self, *_: object) -> None:
                pass

        outer = self
        self.asked = threading.Event()
        self.hold = threading.Event()
        """While it is not set, an answer does not end."""
        self.hold.set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Raw:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def write_clouds(self, folder: Path) -> Path:
        """A clouds.yaml that has it as `lab`."""
        file = folder / "clouds.yaml"
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        file.write_text(f"clouds: {{lab: {{auth_type: none, network_endpoint_override: '{url}'}}}}")
        return file


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html>login</html>", "expected a JSON object, got <html>login</html>"),
        (b"[]", "expected a JSON object, got []"),
        (b"{}", "expected a list of objects as 'ports'"),
        (b'{"ports": [7]}', "expected a list of objects as 'ports'"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, body: bytes, expected: str) -> None:
    """A proxy's page, or something else that is no listing."""
    with Raw(200, body) as raw:
        assert error_of(raw.write_clouds(tmp_path)).endswith(f"network /ports: {expected}")


def test_answer_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ends at the limit."""
    monkeypatch.setattr(openstack_api, "MAX_BYTES", 1 << 20)
    with Raw(200, *[b" " * (1 << 18)] * 400) as raw:
        assert error_of(raw.write_clouds(tmp_path)).endswith("the answer has more than 1048576 octets")


def test_answers_in_circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that always has a next page."""
    monkeypatch.setattr(openstack_api, "MAX_OBJECTS", 50)
    with Raw(200, b'{"ports": [{"id": "a"}], "ports_links": [{"rel": "next"}]}') as raw:
        assert error_of(raw.write_clouds(tmp_path)).endswith("network /ports: more than 50 objects")


def test_answer_that_does_not_end(tmp_path: Path) -> None:
    """The deadline ends it."""
    with Raw(200, b'{"ports"') as raw:
        raw.hold.clear()
        message = error_of(raw.write_clouds(tmp_path), deadline_seconds=1)
        assert "network /ports: " in message
        assert "timed out" in message


def test_interrupt(tmp_path: Path) -> None:
    """`interrupt` ends a wait under way, and a read before its next request."""
    with Raw(200, b'{"ports": [{"id": "a"}], "ports_links": [{"rel": "next"}]}') as raw:
        source = Openstack(OpenstackSettings(cloud="lab", config_file=raw.write_clouds(tmp_path), poll_seconds=60))
        errors: list[str] = []

        def read() -> None:
            try:
                source.read()
            except SourceError as error:
                errors.append(str(error))

        thread = threading.Thread(target=read)
        thread.start()
        assert raw.asked.wait(60)
        source.interrupt()
        thread.join(60)
        assert errors == ["openstack lab: stopping"]
        assert source.wait(3_600) is False
        source.close()


def test_wait_ends_by_itself() -> None:
    """No event ever comes."""
    source = Openstack(OpenstackSettings())
    assert source.wait(0.01) is False
    source.close()
