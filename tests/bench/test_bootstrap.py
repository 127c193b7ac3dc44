"""bench/gpu/bootstrap.sh, with every program that it calls replaced by one that notes the call."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu" / "bootstrap.sh"
PROGRAM = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in *"$FAILS"*) exit 7;; esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing but the script, and the programs in a folder of their own."""
    folder = tmp_path / "checkout" / "bench" / "gpu"
    folder.mkdir(parents=True)
    (tmp_path / "checkout" / "l2c_rt").mkdir()
    shutil.copy(SCRIPT, folder)
    for name in ("cmake", "python3"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)
    return tmp_path / "checkout"


def run(
    checkout: Path, *arguments: str, fails: str = "never"
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The script's end, and the calls that it made."""
    calls = checkout.parent / "calls"
    paths = {"PATH": f"{checkout.parent / 'bin'}:{os.environ['PATH']}", "PYTHON": "python3"}
    environment = os.environ | paths | {"CALLS": str(calls), "FAILS": fails}
    command = ["bash", str(checkout / "bench" / "gpu" / "bootstrap.sh"), *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return ended, calls.read_text().splitlines()


ALL = ["doctor", "every_kernel", "pytest tests", "pytest tests", "pytest bench"]
"""Tests twice: side by side, and those that a busy GPU disturbs."""


def stages(calls: list[str]) -> list[str]:
    names = ("doctor", "every_kernel", "pytest tests", "pytest bench")
    return [name for call in calls for name in names if name in call]


def test_the_extension_is_built_before_anything_runs_and_pip_is_not_asked(checkout: Path) -> None:
    ended, calls = run(checkout)
    assert ended.returncode == 0, ended.stderr
    assert [call.split()[0] for call in calls[:2]] == ["cmake", "cmake"]
    assert calls[1].endswith("--target _C")
    assert stages(calls) == ALL
    assert "pip" not in "".join(calls)
    assert (checkout / "l2c_rt" / "kernels").readlink() == Path("../kernels")


def test_a_stage_that_fails_is_said_the_rest_runs_and_the_results_come_home(
    checkout: Path,
) -> None:
    ended, calls = run(checkout, "out/first", fails="every_kernel")
    assert ended.returncode == 1
    assert "kernels: exit code 7" in ended.stdout
    assert "failed: kernels" in ended.stdout
    assert stages(calls) == ALL
    with tarfile.open(checkout / "out" / "first.tar.gz") as archive:
        assert archive.getnames() == ["first"]


@pytest.mark.parametrize(("arguments", "fails", "code"), [(["build"], "never", 0), ([], "-S", 1)])
def test_nothing_runs_where_only_the_build_was_asked_for_or_where_it_failed(
    checkout: Path, arguments: list[str], fails: str, code: int
) -> None:
    ended, calls = run(checkout, *arguments, fails=fails)
    assert ended.returncode == code
    assert stages(calls) == []


@pytest.mark.parametrize(("fails", "workers"), [("never", 1), ("import xdist", 0)])
def test_tests_run_side_by_side_where_xdist_is_but_for_those_that_read_memory_or_time(
    checkout: Path, fails: str, workers: int
) -> None:
    _, calls = run(checkout, fails=fails)
    tests = [call for call in calls if "pytest tests" in call]
    assert [call.count("-n 8") for call in tests] == [workers, 0]
    assert "not (memory or" in tests[0]
    assert "-k memory or" in tests[1]
