"""deploy/debian: the package is built, installed in a Debian of its own, used there, and purged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import ROOT

DEBIAN = ROOT / "deploy/debian"
SCRIPTS = ("vmflow.postinst", "vmflow.postrm")
HOME = "/usr/lib/vmflow"
BOOKS = re.compile(
    r"/run/|/root/\.cache/|/var/(lib/(dpkg|systemd)|log|cache)/|/etc/(passwd|group|shadow|gshadow|subuid|subgid|\.pwd\.lock)"
)
"""Files in which a system keeps books of packages and users; what root's own calls keep in root's home."""
TOOLS = {"dh": "debhelper", "mmdebstrap": "mmdebstrap", "lintian": "lintian"}


def missing() -> str:
    """Why the package cannot be built and installed here; empty if it can."""
    if os.environ.get("VMFLOW_DEBIAN") != "1":
        return "builds and installs a package, which takes minutes: `make test-debian` does"
    if os.geteuid() != 0:
        return "needs root, to install a package in a Debian of its own"
    lacking = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    return f"needs the Debian packages {', '.join(lacking)}" if lacking else ""


slow = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@pytest.mark.parametrize("name", SCRIPTS)
def test_shells_read_the_scripts(name: str) -> None:
    text = (DEBIAN / name).read_text()

    assert text.startswith("#!/bin/sh\nset -e\n")
    assert text.endswith("#DEBHELPER#\n")
    for shell in filter(shutil.which, ("dash", "sh")):
        subprocess.run([shell, "-n", DEBIAN / name], check=True)
    subprocess.run(["bash", "-n", DEBIAN / "build"], check=True)


@pytest.mark.parametrize("arguments", [(), ("--wheel",), ("--unknown", "x"), ("x", "y")])
def test_a_wrong_call_says_how_it_is_called(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([DEBIAN / "build", *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: deploy/debian/build [--server] [--wheel FILE] DIR\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without the embedded store: the same files but for its libraries, in half the time."""
    folder = tmp_path_factory.mktemp("deb")
    done = subprocess.run([DEBIAN / "build", "--server", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.deb")
    assert done.stdout == f"{found}\n"
    return found


def field(package: Path, name: str) -> str:
    return subprocess.run(
        ["dpkg-deb", "--field", package, name], capture_output=True, text=True, check=True
    ).stdout.strip()


@slow
def test_the_package_says_what_it_is_and_has_its_files(package: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    machine = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert package.name == f"vmflow_{version}-1_{machine}.deb"
    assert (field(package, "Version"), field(package, "Architecture")) == (f"{version}-1", machine)
    python = subprocess.run(["/usr/bin/python3", "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert f"python3 (>= {'.'.join(python.split('.')[:2])}~)" in field(package, "Depends")

    listed = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=5) for line in listed.splitlines()]
    owners = {line[1] for line in lines}
    files = {line[5].split(" -> ")[0].removeprefix("."): line[0] for line in lines}
    assert owners == {"root/root"}
    for name in (
        "/etc/vmflow/vmflow.toml", "/usr/lib/sysctl.d/90-vmflow.conf", "/usr/share/man/man1/vmflow.1.gz",
        "/usr/share/bash-completion/completions/vmflow", "/usr/share/doc/vmflow/docs/operations.md",
        "/usr/share/doc/vmflow/README.md", f"{HOME}/bin/vmflow",
    ):  # fmt: skip
        assert name in files, name
    assert [name for name in files if name.endswith("/vmflow.service")]
    assert not [name for name, mode in files.items() if mode[0] != "l" and mode[8] == "w"], "all may write"
    control = subprocess.run(["dpkg-deb", "--info", package, "conffiles"], capture_output=True, text=True, check=True)
    assert control.stdout.split() == ["/etc/vmflow/vmflow.toml"]


@slow
def test_lintian_finds_nothing_wrong(package: Path) -> None:
    """What it is to pass over stands in deploy/debian/vmflow.lintian-overrides, with the reason."""
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", package],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian of this release with no more than the package depends on."""
    folder = tmp_path_factory.mktemp("debian") / "root"
    release = dict(re.findall(r'^(\w+)="?(.*?)"?$', Path("/etc/os-release").read_text(), re.MULTILINE))
    done = subprocess.run(
        ["mmdebstrap", "--variant=minbase", "--include=python3,passwd,libstdc++6,libgcc-s1,systemd",
         release["VERSION_CODENAME"], folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    yield folder
    shutil.rmtree(folder)


def inside(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program in there, with nothing of ours around it."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["chroot", root, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "NUMBA_DISABLE_JIT": "1"},
    )


def files_in(root: Path) -> set[str]:
    found = {f"/{path.relative_to(root)}" for path in root.rglob("*")}
    return {name for name in found if not BOOKS.match(name)}


@slow
def test_it_is_installed_works_and_leaves_nothing(package: Path, root: Path, tmp_path: Path) -> None:
    before = files_in(root)
    shutil.copy(package, root / "vmflow.deb")

    done = inside(root, "dpkg", "--install", "/vmflow.deb")

    assert done.returncode == 0, done.stdout + done.stderr
    (root / "vmflow.deb").unlink()
    assert inside(root, "vmflow", "--version").stdout == f"vmflow {field(package, 'Version')[:-2]}, without chDB\n"
    done = inside(
        root, "vmflow", "check", "--config", "/etc/vmflow/vmflow.toml", "--set", "store.url=http://[::1]:8123"
    )
    assert done.returncode == 0, done.stderr
    # Libraries find what they are linked with; numba's pools of threads on TBB and OpenMP are optional, and not used.
    search = f"find {HOME} -name '*.so*' -type f ! -path '*/numba/np/ufunc/*' -exec ldd {{}} + 2>/dev/null"
    done = inside(root, "sh", "-c", f"{search} | grep 'not found'")
    assert done.stdout == ""
    done = inside(root, f"{HOME}/bin/python", "-c", "import collector.app, apprise, llvmlite.binding, pyarrow, uvloop")
    assert done.returncode == 0, done.stderr
    # The unit starts this program as this user, and is enabled.
    unit = next(root.glob("**/system/vmflow.service")).read_text()
    assert set(re.findall(r"^Exec\w+=(\S+) (?:check|run) ", unit, re.MULTILINE)) == {"/usr/bin/vmflow"}
    assert ("User=vmflow\nGroup=vmflow\n" in unit, "DynamicUser" in unit) == (True, False)
    user = inside(root, "getent", "passwd", "vmflow").stdout.split(":")
    assert (user[0], user[6]) == ("vmflow", "/usr/sbin/nologin\n")
    assert (root / "etc/systemd/system/multi-user.target.wants/vmflow.service").is_symlink()
    done = inside(root, "systemd-analyze", "verify", "--man=no", "vmflow.service")
    assert "vmflow" not in done.stderr, done.stderr

    # What it wrote while it ran.
    for name in ("var/lib/vmflow/spool", "var/cache/vmflow/kernels", "etc/vmflow"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "rest").touch()
    assert inside(root, "dpkg", "--remove", "vmflow").returncode == 0
    assert (root / "etc/vmflow/vmflow.toml").is_file()
    assert (root / "var/lib/vmflow/spool/rest").is_file()
    assert not (root / "usr/bin/vmflow").is_symlink()
    done = inside(root, "dpkg", "--purge", "vmflow")
    assert done.returncode == 0, done.stderr
    assert files_in(root) - before == set()
    assert inside(root, "getent", "passwd", "vmflow").stdout == ""
