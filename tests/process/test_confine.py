"""The confined process: what it cannot reach any more, what of the settings it still can, and the service in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme

from collector.process import reach
from collector.process.confine import KNOWN_ABI, LEAST_ABI, ConfineError, landlock_abi
from collector.process.reach import reach_of
from collector.settings import load
from tests.http.test_gate import _files
from tests.notify.test_apprise import Mailbox, mail_server, mail_url
from tests.service import ROOT, Service, payloads, running, send

needs_landlock = pytest.mark.skipif(
    landlock_abi() < LEAST_ABI, reason=f"the kernel has no Landlock of version {LEAST_ABI} or newer"
)

PROBE = """
import argparse, json, os, signal, socket, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from collector.commands import run
run.add_arguments(argparse.ArgumentParser())
from pathlib import Path
from collector.commands.serve import _confined, _own_temporary_directory
from collector.process.confine import other_threads
from collector.environment import hide
from collector.settings import load, secret_variables
asked = json.load(sys.stdin)
settings = load(None, asked["settings"])
answers = {"threads": other_threads(), "hidden": hide(secret_variables(settings))}
temporary = _own_temporary_directory()
answers["abi"] = _confined(settings, None, temporary).abi
def attempt(function, *arguments):
    try:
        answer = function(*arguments)
        return answer if isinstance(answer, str) else "done"
    except OSError as error:
        return type(error).__name__
def read(path):
    os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(100)
def connect(port):
    socket.create_connection(("127.0.0.1", port), 5).close()
def bind(port):
    socket.create_server(("127.0.0.1", port)).close()
calls = {
    "read": read, "write": lambda path: open(path, "w").close(), "connect": connect, "bind": bind,
    "signal": lambda pid: os.kill(pid, 0), "run": lambda path: subprocess.run([path], check=True).stdout,
    "threads_read": lambda path: ThreadPoolExecutor(1).submit(read, path).result(),
}
answers["calls"] = [attempt(calls[name], argument) for name, argument in asked["calls"]]
if asked["sql"]:
    import chdb
    connection = chdb.connect(str(settings.store.directory))
    def ask(sql):
        try:
            return connection.query(sql, "TabSeparatedRaw").bytes().decode().strip()
        except Exception as error:
            return str(error).split("\\n")[0]
    answers["sql"] = [ask(sql) for sql in asked["sql"]]
    connection.close()
temporary.rmdir()
json.dump(answers, sys.stdout)
"""


def probe(settings: list[str], calls: Sequence[tuple[str, Any]], sql: Sequence[str] = (), **variables: str) -> Any:
    """What a Python that was confined as the service is can do."""
    asked = {"settings": settings, "calls": calls, "sql": sql}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], input=json.dumps(asked), capture_output=True, text=True, timeout=300,
        cwd=ROOT, env={**os.environ, **variables}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@needs_landlock
def test_the_process_reaches_its_own_files_and_no_others(tmp_path: Path) -> None:
    """As root, too, and in threads that begin later; links lead nowhere else."""
    own, other = tmp_path / "own", tmp_path / "other"
    other.mkdir()
    (other / "secret").write_text("s3cr3t")
    (own / "store").mkdir(parents=True)
    (own / "store/link").symlink_to(other / "secret")
    refused = [
        *(("read", path) for path in ("/etc/shadow", "/etc/passwd", "/root", "/home", "/var/lib/dpkg/status", "/etc")),
        *(("read", f"/proc/{who}/environ") for who in ("self", "1", os.getpid())),
        *(("read", path) for path in ("/proc/1/cmdline", "/proc/self/root/etc/shadow", "/proc/self/mem")),
        *(("read", str(path)) for path in (other / "secret", own / "store/link", other)),
        ("threads_read", "/etc/shadow"),
        *(("write", path) for path in (str(other / "new"), "/var/tmp/vmflow-x", "/usr/x", "/etc/x", "/dev/shm/x")),  # noqa: S108
        *(("run", path) for path in ("/bin/true", "/usr/bin/id", sys.executable)),
    ]
    allowed = [
        ("read", "/proc/meminfo"), ("read", "/sys/fs/cgroup"), ("read", json.__file__), ("read", "/etc/ssl/certs"),
        ("threads_read", "/proc/cpuinfo"), ("write", str(own / "store/new")), ("write", "/dev/null"),
        ("write", str(own / "templates.json")),
    ]  # fmt: skip

    answers = probe([f"store.url=chdb://{own}/store"], [*refused, *allowed])

    assert answers["threads"] == []
    assert answers["abi"] == min(landlock_abi(), KNOWN_ABI)
    outcomes = dict(zip([f"{name} {path}" for name, path in (*refused, *allowed)], answers["calls"], strict=True))
    assert {what for what, outcome in outcomes.items() if outcome == "done"} == {f"{n} {p}" for n, p in allowed}
    assert set(outcomes.values()) <= {"done", "PermissionError", "FileNotFoundError"}


@pytest.mark.skipif(landlock_abi() < 4, reason="the kernel's Landlock does not know TCP ports: Linux 6.7 or newer")
def test_the_process_uses_the_ports_of_its_settings_and_no_others(tmp_path: Path) -> None:
    web, sql, stream = free_port(), free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as hook, socket.create_server(("127.0.0.1", 0)) as other:
        named, foreign = hook.getsockname()[1], other.getsockname()[1]
        settings = [
            f"store.url=chdb://{tmp_path}/own/store", f"web.port={web}", f"sql.port={sql}",
            f'listen.streams=["tcp://127.0.0.1:{stream}"]',
            f'notify.receivers={{"hook": {{"kind": "alertmanager", "url": "http://127.0.0.1:{named}"}}}}',
        ]  # fmt: skip
        calls = [("bind", port) for port in (web, sql, stream, 0, free_port())]
        calls += [("connect", named), ("connect", foreign)]

        outcomes = probe(settings, calls)["calls"]
        calls = [("bind", 0), ("connect", foreign)]
        more = probe([*settings[:1], "web.port=0", "sql.port=0", f"confine.connect=[{foreign}]"], calls)["calls"]

    assert outcomes == ["done"] * 3 + ["PermissionError"] * 2 + ["done", "PermissionError"]
    assert more == ["done", "done"]


@pytest.mark.skipif(landlock_abi() < 6, reason="the kernel's Landlock does not know signals: Linux 6.12 or newer")
def test_the_process_signals_no_other(tmp_path: Path) -> None:
    assert probe([f"store.url=chdb://{tmp_path}/own/store"], [("signal", os.getpid())])["calls"] == ["PermissionError"]


@needs_landlock
def test_the_engine_reaches_nothing_else_either(tmp_path: Path) -> None:
    """Without any guard in front of it: what the kernel refuses needs no list of functions."""
    pytest.importorskip("chdb", reason="the embedded store needs chDB")
    out = tmp_path / "out"
    out.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        refused = [
            "SELECT file('/etc/shadow')",
            "SELECT arrayMap(x -> file(x), ['/etc/shadow'])",
            "SELECT file('/proc/self/environ')",
            "SELECT * FROM file('/etc/passwd', 'LineAsString')",
            "SELECT * FROM file('/root/.bashrc', 'LineAsString')",
            f"INSERT INTO FUNCTION file('{out}/a', 'CSV', 'a Int8') VALUES (1)",
            f"SELECT 1 INTO OUTFILE '{out}/b'",
        ]
        network = [f"SELECT * FROM url('{url}', 'RawBLOB') SETTINGS http_max_tries = 1"] if landlock_abi() >= 4 else []
        environment = "SELECT countIf(line != '') FROM file('/proc/self/task/*/environ', 'LineAsString', 'line String')"
        works = ["CREATE TABLE t (a Int8) ORDER BY a", "INSERT INTO t VALUES (1)", "SELECT sum(a) FROM t"]
        drop = ["RENAME TABLE t TO u", "OPTIMIZE TABLE u FINAL", "DROP TABLE u SYNC", "SELECT 7"]

        answers = probe(
            [f"store.url=chdb://{tmp_path}/own/store"], [], [*refused, *network, environment, *works, *drop],
            VMFLOW_STORE__PASSWORD="s3cr3t",  # noqa: S106 - of nobody
        )  # fmt: skip

    reported = answers["sql"]
    assert [answer for answer in reported[: len(refused)] if "ermission denied" not in answer] == []
    assert all("ermission denied" in answer for answer in reported[len(refused) : len(refused) + len(network)])
    assert reported[-7:] == ["", "", "1", "", "", "", "7"]
    assert list(out.iterdir()) == []


def test_variables_are_hidden_and_settings_keep_them(tmp_path: Path) -> None:
    """From /proc, from libraries and from processes that are started later; a reload finds them."""
    code = """
        import os, subprocess
        from collector import environment
        from collector.settings import load, secret_variables
        receivers = '{"it": {"url_env": "HOOK_URL"}}'
        before = load(None, [f"notify.receivers={receivers}"])
        print(environment.hide(secret_variables(before)))
        shown = open("/proc/self/environ", "rb").read() + subprocess.run(["env"], capture_output=True).stdout
        print([word for word in (b"st0re", b"h00k", b"VMFLOW_STORE") if word in shown], b"PATH=" in shown)
        print([name for name in ("VMFLOW_STORE__PASSWORD", "HOOK_URL", "VMFLOW_CONFIG", "PATH") if name in os.environ])
        print(open("/proc/self/environ", "rb").read().strip(b"\\0"))
        after = load(None, [f"notify.receivers={receivers}"])
        print(after == before, after.store.password.get_secret_value(), after.notify.receivers["it"].read_url("it"))
        try:
            os.environ["VMFLOW_NOSUCH__KEY"] = "1"
            load(None)
        except Exception as error:
            print(error)
    """
    variables = {
        "PATH": os.environ["PATH"], "VMFLOW_STORE__PASSWORD": "st0re", "HOOK_URL": "json://h00k@127.0.0.1:9/",
        "VMFLOW_CONFIG": "/nowhere",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=variables,
        check=False,
    )

    lines = done.stdout.splitlines()
    assert lines[:4] == ["True", "[] True", "['VMFLOW_CONFIG', 'PATH']", "b''"], done.stderr
    assert lines[4] == "True st0re json://h00k@127.0.0.1:9/"
    assert lines[5].startswith("variable VMFLOW_NOSUCH__KEY: no section 'nosuch'")


def reach_for(tmp_path: Path, *overrides: str, config: Path | None = None) -> reach.Reach:
    settings = load(None, [f"store.url=chdb://{tmp_path}/own/store", *overrides])
    return reach_of(settings, config, tmp_path / "temporary")


def test_files_that_the_settings_name_may_be_replaced(tmp_path: Path) -> None:
    """With their directories and those that links lead to; not with one in which everybody has files."""
    live, archive = tmp_path / "live", tmp_path / "archive"
    for directory in (live, archive, tmp_path / "names"):
        directory.mkdir()
    (archive / "one.pem").write_text("")
    (live / "certificate.pem").symlink_to("../archive/one.pem")
    clouds = tmp_path / "clouds/clouds.yaml"
    clouds.parent.mkdir()
    clouds.write_text("clouds:\n  here:\n    cacert: '/opt/authorities/ca.pem'\n    prefix: /\n    other: /etc\n")
    names = f'inventory.static=[{{"file": "{tmp_path}/names/vms.csv"}}]'
    receivers = 'notify.receivers={"it": {"url": "fcm://x/y?keyfile=/opt/keys/fcm.json"}}'

    found = reach_for(
        tmp_path,
        f"access.certificate_file={live}/certificate.pem",
        "access.key_file=/etc/vmflow.key",
        names,
        receivers,
        f'inventory.openstack=[{{"config_file": "{clouds}"}}]',
        'confine.read=["/opt/else"]',
        config=Path("/etc/vmflow/vmflow.toml"),
    )

    expected = (
        live, archive, "/etc/vmflow.key", tmp_path / "names", "/opt/authorities/ca.pem", "/opt/authorities",
        "/opt/keys/fcm.json", "/opt/keys", clouds.parent, "/opt/else", "/etc/vmflow",
    )  # fmt: skip
    assert {str(path) for path in expected} <= {str(path) for path in found.read}
    assert not {str(path) for path in found.read} & {"/etc", "/", "/root", "/home", "/opt", "/tmp", str(tmp_path)}  # noqa: S108
    assert found.execute == frozenset()


def test_nothing_else_of_etc_and_proc_is_named(tmp_path: Path) -> None:
    shown = {str(path) for path in reach_for(tmp_path).read}
    for path in ("/etc/shadow", "/etc/passwd", "/etc/ssl", "/etc/ssl/private", "/etc/pki", "/proc", "/proc/self"):
        assert path not in shown


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("web.port=1", {53}),
        ("store.url=http://db.example.net", {53, 8123}),
        ("store.url=https://db.example.net:9440", {53, 9440}),
        ('inventory.libvirt=[{"uri": "qemu:///system"}]', {53}),
        ('inventory.libvirt=[{"uri": "qemu+ssh://hv1/system"}]', {22, 53}),
        ('inventory.libvirt=[{"uri": "qemu+ssh://hv1:2222/system"}]', {53, 2222}),
        ('inventory.libvirt=[{"uri": "qemu+tcp://hv1/system"}]', {53, 16509}),
        ('inventory.libvirt=[{"uri": "qemu+tls://hv1/system"}]', {53, 16514}),
        ('inventory.libvirt=[{"uri": "qemu+ext://hv1/system?command=/opt/x"}]', None),
        ('inventory.ovsdb=[{"remote": "tcp:192.0.2.1:7000"}, {"remote": "unix:/run/x"}]', {53, 7000}),
        ("inventory.openstack=[{}]", None),
        ('notify.receivers={"it": {"url": "json://h/"}}', {25, 53, 80, 443, 465, 587}),
        ('notify.receivers={"it": {"url": "json://u:p@h:8000/"}}', {25, 53, 80, 443, 465, 587, 8000}),
        ('notify.receivers={"it": {"url": "mqtts://h/topic"}}', {25, 53, 80, 443, 465, 587, 8883}),
        ('notify.receivers={"it": {"url": "https://h", "kind": "alertmanager"}}', {53, 443}),
        ("confine.connect=[1234]", {53, 1234}),
    ],
)
def test_ports_follow_from_the_settings(
    override: str, expected: set[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    assert reach_for(tmp_path, f"store.spool_directory={tmp_path}/spool", "rollup.enabled=false", override).connect == (
        None if expected is None else frozenset(expected)
    )
    monkeypatch.setenv("https_proxy", "http://proxy.example.net:3128")
    assert expected is None or 3128 in (reach_for(tmp_path, override).connect or ())


def test_ssh_of_libvirt_may_be_run_and_reads_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = reach_for(tmp_path, 'inventory.libvirt=[{"uri": "qemu+ssh://hv1/system?keyfile=/opt/keys/hv1"}]')

    assert {tmp_path / "home/.ssh", Path("/opt/keys"), Path("/etc/passwd")} <= found.read
    assert Path("/usr") in found.execute
    found = reach_for(tmp_path, 'inventory.libvirt=[{"uri": "qemu+ext://hv1/system?command=/opt/way&x=/"}]')
    assert Path("/opt/way") in found.execute
    assert Path("/") not in found.execute | found.read


@pytest.mark.parametrize(
    "override",
    [
        "store.url=chdb:///store",
        "store.url=chdb:///etc/store",
        "store.spool_directory=/var/lib",
        "rollup.key_file=/root/k",
    ],
)
def test_a_directory_that_is_not_our_own_confines_nobody(override: str, tmp_path: Path) -> None:
    with pytest.raises(ConfineError, match="no directory for them alone: see"):
        reach_for(tmp_path, override)


def test_home_directories_of_services_are_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image, whose user has the data directory for a home."""
    monkeypatch.setattr(reach, "_homes", lambda: {Path("/var/lib/vmflow"), tmp_path / "own"})
    assert not reach._others(Path("/var/lib/vmflow"))
    assert reach._others(tmp_path / "own")
    with pytest.raises(ConfineError, match="no directory for them alone"):
        reach_for(tmp_path)


def without_landlock(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`vmflow` where the kernel, or a filter of system calls, has no Landlock."""
    code = """
        import sys
        from collector.process import confine
        real = confine._syscall
        def refused(number, *arguments):
            if number in (444, 445, 446):
                raise OSError(38, "Function not implemented")
            return real(number, *arguments)
        confine._syscall = refused
        from collector.__main__ import main
        sys.exit(main(sys.argv[1:]))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=120,
    )


def test_without_landlock_the_log_says_so_or_nothing_starts(tmp_path: Path) -> None:
    """This machine does not have the address to listen at, which ends the start after the confinement."""
    values = (
        f"store.url=http://127.0.0.1:{free_port()}", f"store.spool_directory={tmp_path}/spool",
        f"rollup.key_file={tmp_path}/spool/key", 'listen.addresses=["192.0.2.77:6343"]', "web.port=0",
    )  # fmt: skip
    common = [word for value in values for word in ("--set", value)]
    required = without_landlock("run", *common, "--set", "confine.mode=require")
    auto = without_landlock("run", *common)

    assert required.returncode == 2
    assert "vmflow run: confine.mode = 'require': Landlock of version 2 or newer is needed, the system offers none" in (
        required.stderr
    )
    assert "not confined: who gets code to run in this process reads what its user may read" in auto.stderr
    assert "the system offers none" in auto.stderr
    assert auto.returncode == 2


def eventually(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def events(service: Service, event: str) -> list[dict[str, Any]]:
    return [line for line in service.log if line.get("event") == event]


@needs_landlock
def test_the_whole_service_works_in_its_confinement(tmp_path: Path) -> None:
    """Stores and sums rows, names VMs from a file that is replaced, takes a new certificate and settings, tells of an
    alert by mail, runs a command that reads and writes elsewhere, and starts again."""
    own, keys, names, config, elsewhere = (tmp_path / name for name in ("own", "keys", "names", "config", "elsewhere"))
    for directory in (keys, names, config, elsewhere):
        directory.mkdir()
    authority = trustme.CA()
    certificate, key = _files(authority, keys, "one")
    vms, settings = names / "vms.csv", config / "vmflow.toml"
    vms.write_text("mac,vm\n02:00:00:00:00:01,first\n")
    settings.write_text("[log]\nlevel = 'info'\n")
    (elsewhere / "input").write_text("of its own")
    script = f'cat {elsewhere}/input > {elsewhere}/output; echo "$ALERT_RULE"; cat /proc/$PPID/environ | tr "\\0" " "'
    action = {"kind": "command", "rules": ["busy"], "argv": ["/bin/sh", "-c", script]}
    rule = {
        "name": "busy", "scope": "exporter", "measure": "datagrams", "level": "10s", "above": 0.5,
        "text": "{exporter} sends",
    }  # fmt: skip
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        overrides = [
            "confine.mode=require", "decode.report_seconds=1", "alerts.default_rules=false",
            "alerts.settle_seconds=0", "analyze.lateness_seconds=1", "analyze.idle_seconds=2", 'alerts.group_by="none"',
            f"listen.certificate_file={certificate}", f"listen.key_file={key}", 'listen.streams=["tls://127.0.0.1:0"]',
            f'inventory.static=[{{"file": "{vms}"}}]', f"alerts.rules={json.dumps([rule])}",
            'alerts.routes=[{"receivers": ["mail"]}]',
            f"notify.receivers={json.dumps({'mail': {'url': mail_url(port)}})}",
            "notify.actions_enabled=true", f"notify.actions={json.dumps({'note': action})}",
        ]  # fmt: skip
        with running(own, *overrides, config=settings) as service:
            assert json.loads(service.get("/health"))["confined"].startswith(
                f"Landlock {service.metric('vmflow_confined'):.0f}: "
            )
            assert "vmflow" in json.loads(service.get("/api/openapi.json"))["info"]["title"]
            assert Path(f"/proc/{service.process.pid}/environ").read_bytes().strip(b"\0") == b""
            # Files are replaced by others, as editors and tools for certificates do.
            _files(authority, keys, "two")
            (keys / "two.crt").replace(certificate)
            (keys / "two.key").replace(key)
            (names / "new").write_text("mac,vm\n02:00:00:00:00:02,second\n")
            (names / "new").replace(vms)
            (config / "new").write_text("[decode]\nallow = ['127.0.0.0/8']\n")
            (config / "new").replace(settings)
            service.process.send_signal(signal.SIGHUP)
            eventually(lambda: bool(events(service, "settings reloaded")))
            eventually(lambda: "second" in str(service.query("SELECT DISTINCT vm FROM inventory")))
            bad = ("certificate not reloaded, the old one stays", "settings not reloaded")
            assert [line for line in service.log if line.get("event") in bad] == []

            # The window in which the service was started is not looked at: send until one is.
            sent = payloads("ovs_sflow_mixed")
            eventually(lambda: bool(mailbox.mails or send(service.udp[0], sent, "127.0.0.77")))
            eventually(lambda: bool(service.query("SELECT output FROM action_runs")))
            rows = service.wait_for_rows("SELECT count() AS n FROM flows", 1)
            (run,) = service.query("SELECT result, status, output FROM action_runs LIMIT 1")
            launcher = int(next(path.name for path in Path("/proc").iterdir() if _is_child(path, service.process.pid)))
            assert service.stop() == 0
        with running(own, *overrides, config=settings) as service:
            assert service.query("SELECT count() AS n FROM flows") == [{"n": rows}]
            assert service.query("SELECT count() > 0 AS some FROM pair_10s") == [{"some": 1}]
            assert service.stop() == 0

    assert rows > 0
    assert isinstance(mailbox.mails[0], EmailMessage)
    assert "127.0.0.77 sends" in mailbox.mails[0].get_content()
    assert (run["result"], run["status"]) == ("ok", "exit 0")
    assert run["output"].startswith("busy\nPATH=")
    assert "VMFLOW_" not in run["output"]
    assert (elsewhere / "output").read_text() == "of its own"
    assert not Path(f"/proc/{launcher}").exists()


def _is_child(path: Path, parent: int) -> bool:
    try:
        return path.name.isdecimal() and int((path / "stat").read_text().rpartition(") ")[2].split()[1]) == parent
    except OSError:
        return False


@needs_landlock
def test_a_file_that_was_replaced_and_cannot_be_read_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A settings file in a home directory is allowed alone: an editor puts another one in its place."""
    home = tmp_path / "home"
    home.mkdir()
    file = home / "vmflow.toml"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    monkeypatch.setenv("HOME", str(home))
    with running(tmp_path / "own", config=file) as service:
        assert json.loads(service.get("/health"))["replaced_files"] == 0
        (home / "new").write_text("[decode]\nallow = ['127.0.0.0/8']\n")
        (home / "new").replace(file)
        service.process.send_signal(signal.SIGHUP)
        reported = "files were replaced since the start, and the confined process may not read the new ones: restart it"
        eventually(lambda: any(str(line.get("event")).startswith(reported) for line in service.log))
        assert events(service, "settings not reloaded")
        assert [line["files"] for line in service.log if "files" in line] == [str(file)]
        assert json.loads(service.get("/health"))["replaced_files"] == 1
        assert service.stop() == 0
