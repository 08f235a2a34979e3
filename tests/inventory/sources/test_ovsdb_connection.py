"""Following a real ovsdb-server: changes, restarts, a daemon that hangs, TLS, and servers that are none."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from collector.inventory.settings import OvsdbSettings
from collector.inventory.sources.base import SourceError, SourceSetupError
from collector.inventory.sources.ovsdb import Ovsdb
from schemas.inventory import Rank
from tests.inventory.sources.ovsdb_server import OvsdbServer, free_port, needs_server

LONG = 60.0
"""Seconds that no wait below should last."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OvsdbServer]:
    needs_server()
    with OvsdbServer(tmp_path) as started:
        started.vsctl("add-br", "br-int", "--", "add-port", "br-int", "vnet1")
        yield started


@pytest.fixture(params=["unix", "tcp"])
def source(request: pytest.FixtureRequest, server: OvsdbServer) -> Iterator[Ovsdb]:
    with closing(Ovsdb(OvsdbSettings(remote=getattr(server, request.param), deadline_seconds=4))) as made:
        yield made


def names(source: Ovsdb) -> set[str]:
    return {interface.port_name for interface in source.read().interfaces}


def added(server: OvsdbServer, name: str) -> None:
    server.vsctl("add-port", "br-int", name)


def test_the_ports_are_those_that_ovs_vsctl_lists(server: OvsdbServer, source: Ovsdb) -> None:
    assert source.rank is Rank.OVSDB
    assert source.name in (f"ovsdb {server.unix}", f"ovsdb {server.tcp}")
    assert names(source) - {"br-int"} == set(server.vsctl("list-ports", "br-int").split())


def test_a_read_has_what_was_committed_before_it(server: OvsdbServer, source: Ovsdb) -> None:
    names(source)
    for number in range(20):
        added(server, f"tap{number}")
        assert f"tap{number}" in names(source)


def test_a_change_ends_the_wait_and_says_when(server: OvsdbServer, source: Ovsdb) -> None:
    assert source.read().changed_us == 0
    before = time.time_ns() // 1_000
    later = threading.Timer(0.3, added, (server, "vnet2"))
    later.start()

    assert source.wait(LONG)

    later.join()
    report = source.read()
    assert "vnet2" in {interface.port_name for interface in report.interfaces}
    assert before < report.changed_us <= time.time_ns() // 1_000
    assert source.read().changed_us == 0


def test_a_burst_is_one_wait(server: OvsdbServer, source: Ovsdb) -> None:
    names(source)
    added(server, "vnet2")
    added(server, "vnet3")

    assert source.wait(LONG)
    assert {"vnet2", "vnet3"} <= names(source)
    assert not source.wait(0.2)


def test_a_port_that_goes_is_gone(server: OvsdbServer, source: Ovsdb) -> None:
    names(source)
    server.vsctl("del-port", "vnet1")

    assert source.wait(LONG)
    assert "vnet1" not in names(source)


def test_nothing_happens(source: Ovsdb) -> None:
    names(source)

    assert not source.wait(0.2)


def test_columns_that_are_not_asked_for_are_no_change(server: OvsdbServer, source: Ovsdb) -> None:
    names(source)
    server.vsctl("set", "Interface", "vnet1", "mtu_request=1400", "statistics:rx_bytes=1")

    assert not source.wait(0.3)


def test_statistics_alone_are_no_change(server: OvsdbServer) -> None:
    settings = OvsdbSettings(remote=server.unix, counters_seconds=1_000)
    with closing(Ovsdb(settings)) as source:
        names(source)
        server.vsctl("set", "Interface", "vnet1", "statistics:rx_bytes=1")
        assert not source.wait(0.3)
        server.vsctl("set", "Interface", "vnet1", "statistics:rx_bytes=2", "ofport=7")
        assert source.wait(LONG)


@pytest.mark.parametrize("connected", [True, False])
def test_interrupting_a_wait(source: Ovsdb, connected: bool) -> None:
    if connected:
        names(source)
    later = threading.Timer(0.3, source.interrupt)
    later.start()

    assert not source.wait(LONG)
    later.join()
    source.interrupt()
    assert not source.wait(LONG)
    assert not source.wait(0.1)


def test_a_database_that_is_started_again(server: OvsdbServer, source: Ovsdb) -> None:
    names(source)
    server.stop()
    assert source.wait(LONG)
    with pytest.raises(SourceError, match="cannot connect"):
        source.read()
    assert not source.wait(0.1)

    server.start()

    assert "vnet1" in names(source)
    added(server, "vnet2")
    assert source.wait(LONG)
    assert "vnet2" in names(source)


def test_a_database_that_is_replaced_leaves_nothing_of_the_old_one(server: OvsdbServer, source: Ovsdb) -> None:
    names(source)
    server.stop()
    server.start()
    server.vsctl("del-port", "vnet1", "--", "add-port", "br-int", "vnet9")

    assert source.wait(LONG)
    report = source.read()

    assert {interface.port_name for interface in report.interfaces} == {"br-int", "vnet9"}
    assert report.changed_us == 0  # what the new contents say may be old


def test_a_database_that_is_killed(server: OvsdbServer, source: Ovsdb) -> None:
    names(source)
    server.signal(signal.SIGKILL)
    server.stop()

    with pytest.raises(SourceError, match=r"lost|cannot connect"):
        source.read()


def test_a_database_that_hangs_is_not_taken_for_fresh(server: OvsdbServer, source: Ovsdb) -> None:
    """Also over a unix socket, where the library itself does not probe."""
    names(source)
    server.signal(signal.SIGSTOP)
    with pytest.raises(SourceError, match=r"no complete answer in time|lost"):
        source.read()
    with pytest.raises(SourceError, match=r"no complete answer in time|cannot connect"):
        source.read()

    server.signal(signal.SIGCONT)

    assert "vnet1" in names(source)


def test_a_wait_ends_where_the_database_hangs(server: OvsdbServer, source: Ovsdb) -> None:
    """The library's probe: asked after half of the deadline, given up after as much again."""
    names(source)
    server.signal(signal.SIGSTOP)

    assert source.wait(LONG)


def test_nothing_is_left_open(server: OvsdbServer) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        source = Ovsdb(OvsdbSettings(remote=server.unix))
        names(source)
        source.close()
        source.close()
        del source

    assert set(os.listdir("/proc/self/fd")) == before


def test_more_files_than_select_can_count(server: OvsdbServer, source: Ovsdb) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2_048:
        pytest.skip("needs 2,048 open files: raise the hard limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_048), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        names(source)
        added(server, "vnet2")
        assert source.wait(LONG)
        source.close()
    finally:
        for file in opened:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_names_of_hosts_are_looked_up(server: OvsdbServer) -> None:
    with closing(Ovsdb(OvsdbSettings(remote=f"tcp:localhost:{server.port}"))) as source:
        assert "vnet1" in names(source)


@pytest.mark.parametrize("remote", ["udp:192.0.2.1:6640", "unix:", "tcp:192.0.2.1", "tcp:6640", "tcp:192.0.2.1:x", ""])
def test_remotes_that_are_none(remote: str) -> None:
    needs_server()
    with pytest.raises(SourceSetupError, match=r"expected unix:/path/db\.sock"):
        Ovsdb(OvsdbSettings(remote=remote))


def test_ssl_without_its_files() -> None:
    needs_server()
    with pytest.raises(SourceSetupError, match="private_key_file is not set, expected a file"):
        Ovsdb(OvsdbSettings(remote="ssl:192.0.2.1:6640"))


def test_a_place_without_a_database(tmp_path: Path) -> None:
    needs_server()
    for remote in (f"unix:{tmp_path}/none.sock", f"tcp:127.0.0.1:{free_port()}"):
        with closing(Ovsdb(OvsdbSettings(remote=remote))) as source:
            with pytest.raises(SourceError, match=r"cannot connect \((No such file|Connection refused)"):
                source.read()
            assert not source.wait(0.05)


def authority(directory: Path) -> tuple[Path, Path, Path]:
    """(key, certificate, authority): one certificate that signs itself, as small sites have it."""
    directory.mkdir()
    key, certificate = directory / "key.pem", directory / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ovs"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return key, certificate, certificate


@contextmanager
def tls_server(directory: Path, files: tuple[Path, Path, Path]) -> Iterator[OvsdbSettings]:
    """A database over TLS, and the settings that reach it."""
    port = free_port()
    names = ("--private-key", "--certificate", "--ca-cert")
    options = [f"{name}={file}" for name, file in zip(names, files, strict=True)]
    with OvsdbServer(directory, f"--remote=pssl:{port}:127.0.0.1", *options) as server:
        server.vsctl("add-br", directory.name)
        yield OvsdbSettings(
            remote=f"ssl:127.0.0.1:{port}",
            private_key_file=files[0],
            certificate_file=files[1],
            ca_file=files[2],
            deadline_seconds=20,
        )


def test_two_databases_over_tls_with_keys_of_their_own(tmp_path: Path) -> None:
    """The library has one place for keys in a process."""
    needs_server()
    first, second = (authority(tmp_path / name) for name in ("one", "two"))
    with tls_server(tmp_path / "one", first) as one, tls_server(tmp_path / "two", second) as two:
        with closing(Ovsdb(one)) as a, closing(Ovsdb(two)) as b:
            for _ in range(2):
                assert (names(a), names(b)) == ({"one"}, {"two"})
                a.close()
                b.close()
        wrong = one.model_copy(update={"private_key_file": second[0], "certificate_file": second[1]})
        fail(Ovsdb(wrong), r"certificates that both sides accept|lost")


@contextmanager
def answering(octets: bytes, endless: bytes = b"") -> Iterator[str]:
    """A server that sends `octets`, whatever it is asked, and then `endless` again and again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(0.1)
                connection.sendall(octets)
                while not ended.wait(0 if endless else LONG):
                    with suppress(TimeoutError):
                        try:
                            connection.sendall(endless)
                        except (BrokenPipeError, ConnectionResetError):
                            return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"id":null,"method":"update3","params":[]}',
        b'{"id":null,"method":"monitor_canceled","params":[]}',
        b'{"id":null,"method":"update2","params":["x",{"Interface":{"y":{}}}]}',
        b'{"id":0,"result":null,"error":null}{"id":1,"result":[1],"error":null}',
        b'{"id":null,"method":"echo","params":[],"x":1}',
    ],
)
def test_answers_that_are_none(octets: bytes) -> None:
    needs_server()
    with answering(octets) as remote, closing(Ovsdb(OvsdbSettings(remote=remote, deadline_seconds=1))) as source:
        fail(source, r"ovsdb tcp:127\.0\.0\.1:\d+: ")


@pytest.mark.parametrize(
    ("octets", "deadline", "why"), [(1 << 18, 20, "more than 262144 octets at once"), (1 << 25, 1, "data without end")]
)
def test_a_message_without_end(octets: int, deadline: float, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size ends it, or the deadline: the library itself would not return before the end of a message."""
    needs_server()
    monkeypatch.setattr("collector.inventory.sources.ovsdb_replica.MAX_BYTES", octets)
    with answering(b'{"id":null,"method":"update3","params":["', b"x" * 65_536) as remote:
        fail(Ovsdb(OvsdbSettings(remote=remote, deadline_seconds=deadline)), why)


def test_messages_without_end() -> None:
    """Each is small and harmless; the deadline ends them."""
    needs_server()
    with answering(b"", b'{"id":null,"method":"update3","params":["x","y",{}]}' * 100) as remote:
        fail(Ovsdb(OvsdbSettings(remote=remote, deadline_seconds=1)), r"data without end|no complete answer")


def fail(source: Ovsdb, why: str) -> None:
    """Read in vain, with the connection closed."""
    with closing(source), pytest.raises(SourceError, match=why):
        source.read()


def test_a_replica_that_has_taken_in_much_is_made_anew(server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.inventory.sources.ovsdb_replica.MAX_TOTAL_BYTES", 10)
    with closing(Ovsdb(OvsdbSettings(remote=server.unix))) as source:
        names(source)
        added(server, "vnet2")
        assert source.wait(LONG)
        report = source.read()
        assert {"vnet1", "vnet2"} <= {interface.port_name for interface in report.interfaces}
        assert report.changed_us == 0


def test_more_interfaces_than_a_switch_can_have(server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.inventory.sources.ovsdb_replica.MAX_INTERFACES", 1)

    fail(Ovsdb(OvsdbSettings(remote=server.unix)), "2 interfaces, expected 1 at most")
