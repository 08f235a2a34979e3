"""The inputs that the fuzzer kept, among them all that ever broke an oracle: compiled and uncompiled agree on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.oracles import KINDS, examine

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
MAX_BYTES = 300_000


def inputs(kind: str) -> list[Path]:
    return sorted(CORPUS.joinpath(kind).iterdir())


def summaries(kind: str) -> str:
    """What all inputs of a harness decode to, as one string; run compiled and uncompiled."""
    return json.dumps([examine(kind, path.read_bytes()) for path in inputs(kind)], default=repr)


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for kind in KINDS for path in inputs(kind)) <= MAX_BYTES


@pytest.mark.parametrize("kind", KINDS)
def test_kept_inputs_break_no_oracle_and_uncompiled_kernels_agree(kind: str) -> None:
    code = f"from tests.fuzz.test_corpus import summaries; print(summaries({kind!r}))"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-2_000:]
    assert run.stdout.strip() == summaries(kind)
