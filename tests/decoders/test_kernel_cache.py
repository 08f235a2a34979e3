"""Machine code of kernels: where it is kept, when it holds, and what runs while there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from decoders import jit, kernel_cache
from decoders.jit import Kernel, compiled_as, inline
from tests.service import ROOT

pytestmark = pytest.mark.skipif(jit.INTERPRETED, reason="nothing is compiled with NUMBA_DISABLE_JIT=1")


@inline
def third(values):
    """A helper with an error of its own."""
    if values.shape[0] < 3:
        raise IndexError("no third value")
    return values[2]


def doubled(values):
    return 2 * third(values)


def squared(values):
    return third(values) * third(values)


@inline
def nth(values, number):
    return values[number]


def ends(values):
    return nth(values, 0) + nth(values, 1) + nth(values, values.shape[0] - 1)


def wraps(values):
    return values[0] * np.uint64(0xFFFFFFFFFFFFFFFF)


def _compiled(values):
    return np.int64(1)


@compiled_as(_compiled)
def how(values):
    return np.int64(0)


def ran_compiled(values):
    return how(values)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache."""
    monkeypatch.setenv("VMFLOW_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_cache, "INSTALLED", tmp_path / "installed")
    monkeypatch.setattr(kernel_cache, "_problems", {})
    before = list(jit._KERNELS)
    yield tmp_path / "cache"
    jit._KERNELS[:] = before
    jit.wait_for_kernels(False)


def fresh(function: object) -> Kernel:
    """The kernel as another process would have it: nothing is loaded."""
    made = jit.kernel(function)  # type: ignore[arg-type]
    assert isinstance(made, Kernel)
    return made


def loaded(kernel: Kernel) -> bool:
    """Whether the last call took machine code from the cache."""
    stats = kernel._dispatcher.stats
    assert sum(stats.cache_hits.values()) + sum(stats.cache_misses.values()) == 1
    return bool(stats.cache_hits)


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.kernel"))


VALUES = np.array([3, 5, 7], np.int64)


def test_a_kernel_is_compiled_once(directory: Path) -> None:
    first, second = fresh(doubled), fresh(doubled)

    assert (first(VALUES), loaded(first)) == (14, False)
    assert (second(VALUES), loaded(second)) == (14, True)
    assert len(files(directory)) == 1
    assert directory.stat().st_mode & 0o777 == 0o700
    assert not list(directory.rglob("*.part"))


def test_errors_of_a_helper_are_those_of_all_kernels_that_contain_it() -> None:
    """Compiled and loaded: their texts lie outside of the machine code."""
    for _ in range(2):
        for function in (doubled, squared):
            kernel = fresh(function)
            with pytest.raises(IndexError, match="no third value"):
                kernel(VALUES[:2])
            assert kernel(VALUES) == function(VALUES)


@pytest.mark.parametrize("keep", [0, 10, 40, -1])
def test_a_damaged_file_is_compiled_again(directory: Path, keep: int) -> None:
    fresh(doubled)(VALUES)
    (file,) = files(directory)
    whole = file.read_bytes()
    changed = bytes([*whole[:-1], whole[-1] ^ 1])
    file.write_bytes(whole[:keep] if keep >= 0 else changed)
    again = fresh(doubled)

    assert not again.cached
    assert (again(VALUES), loaded(again)) == (14, False)
    assert kernel_cache.take_problems() == [f"kernel in {file} is damaged or not ours: it is compiled again"]
    assert fresh(doubled).cached


def test_a_file_holds_for_its_own_kernel_only(directory: Path) -> None:
    fresh(doubled)(VALUES)
    fresh(squared)(VALUES)
    one, other = files(directory)
    shutil.copy(one, other)
    again = fresh(squared)

    assert (again(VALUES), loaded(again)) == (49, False)


def test_changed_source_is_compiled_again(tmp_path: Path) -> None:
    """Whatever file of the folders it is in, and however deep."""

    def digest() -> str:
        kernel_cache.source_digest.cache_clear()
        return kernel_cache.source_digest(tmp_path / "source")

    (tmp_path / "source/below").mkdir(parents=True)
    helper = tmp_path / "source/below/helper.py"
    helper.write_text("ONE = 1\n")
    first = digest()
    helper.write_text("ONE = 2\n")
    second = digest()
    (tmp_path / "source/other.py").write_text("")
    third_one = digest()
    shutil.copytree(tmp_path / "source", tmp_path / "copy")

    assert len({first, second, third_one}) == 3
    assert kernel_cache.source_digest(tmp_path / "copy") == third_one


def test_code_of_another_processor_is_not_loaded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(doubled)(VALUES)
    monkeypatch.setattr(kernel_cache, "processor", lambda: ("another", "+feature"))
    kernel_cache.source_digest.cache_clear()
    again = fresh(doubled)
    kernel_cache.source_digest.cache_clear()

    assert (again(VALUES), loaded(again)) == (14, False)


@pytest.mark.parametrize("below", [False, True])
def test_what_others_may_write_to_is_not_run(directory: Path, below: bool) -> None:
    fresh(doubled)(VALUES)
    (file,) = files(directory)
    opened = file.parent if below else directory
    opened.chmod(0o777)
    kernel_cache.usable.cache_clear()
    again = fresh(doubled)
    before = file.stat().st_mtime_ns

    assert (again(VALUES), loaded(again)) == (14, False)
    assert kernel_cache.take_problems() == [f"cache of kernels in {opened} not used: others may write to it"]
    assert file.stat().st_mtime_ns == before


def test_without_a_cache_kernels_are_compiled_all_the_same(directory: Path) -> None:
    directory.write_text("in its place")
    again = fresh(doubled)

    assert (again(VALUES), loaded(again)) == (14, False)
    assert kernel_cache.take_problems() == [f"no cache of kernels in {directory}: File exists"]
    assert not kernel_cache.writable()


def test_kernels_come_with_an_installation(directory: Path, tmp_path: Path) -> None:
    """Beside a cache that cannot be written to."""
    fresh(doubled)(VALUES)
    directory.rename(tmp_path / "installed")
    directory.write_text("in its place")
    kernel_cache.usable.cache_clear()
    again = fresh(doubled)

    assert again.cached
    assert (again(VALUES), loaded(again)) == (14, True)


def test_while_waiting_a_kernel_runs_uncompiled_where_there_is_no_machine_code() -> None:
    kernel, elsewhere = fresh(ran_compiled), fresh(ran_compiled)
    jit.wait_for_kernels(True)
    assert (kernel(VALUES), kernel.ready) == (0, False)

    jit.wait_for_kernels(False)
    assert elsewhere(VALUES) == 1
    jit.wait_for_kernels(True)
    kernel.load()

    assert (kernel(VALUES), kernel.ready) == (1, True)
    assert kernel(VALUES.astype(np.float64)) == 0, "there is no machine code for these types"


def test_an_uncompiled_kernel_wraps_without_a_warning() -> None:
    """As machine code does.  Here warnings are errors."""
    kernel, two = fresh(wraps), np.array([2], np.uint64)
    jit.wait_for_kernels(True)

    assert (kernel(two), kernel.ready) == (0xFFFFFFFFFFFFFFFE, False)
    jit.wait_for_kernels(False)
    assert kernel(two) == 0xFFFFFFFFFFFFFFFE


def test_a_helper_is_compiled_once_for_all_constants() -> None:
    assert fresh(ends)(VALUES) == VALUES[0] + VALUES[1] + VALUES[-1]
    assert len(nth._numba_type_.dispatcher.overloads) == 1


COPIED = """
import sys
import numpy as np
from decoders.netflow.templates import digest_of
print(digest_of(np.arange(32, dtype=np.uint8), 0, 32, 10, 0))
print(sum(digest_of._dispatcher.stats.cache_hits.values()), digest_of.py_func.__code__.co_filename)
"""


def test_a_copy_of_the_tree_loads_what_the_first_one_compiled(tmp_path: Path) -> None:
    answers = []
    for name in ("first", "copy"):
        for folder in ("decoders", "schemas"):
            shutil.copytree(ROOT / folder, tmp_path / name / folder, ignore=shutil.ignore_patterns("__pycache__"))
        done = subprocess.run(
            [sys.executable, "-c", COPIED], cwd=tmp_path / name, check=True, capture_output=True, text=True
        )
        answers.append(done.stdout.split())

    assert answers[0] == [answers[1][0], "0", str(tmp_path / "first/decoders/netflow/templates.py")]
    assert answers[1][1:] == ["1", str(tmp_path / "copy/decoders/netflow/templates.py")]
