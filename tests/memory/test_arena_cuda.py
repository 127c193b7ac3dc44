"""The CUDA half of the arena and the graph loop, against a stand-in for the driver."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cuda_arena_cases
import cuda_failure_cases
import cuda_loop_cases
import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOP_CASES = Path(cuda_loop_cases.__file__)
NATIVE = ROOT / "csrc" / "tests"
CASES = {
    name: Path(module.__file__)
    for module in (cuda_arena_cases, cuda_failure_cases, cuda_loop_cases)
    for name in vars(module)
    if name.startswith("case_")
}


def build_driver(folder: Path, *defines: str) -> Path:
    """The stand-in as libcuda.so.1, without sanitizers: those are the extension's."""
    command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    sources = [str(NATIVE / "fake_cuda.c"), str(NATIVE / "fake_cuda_memory.c")]
    target = ["-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1"), "-lpthread"]
    subprocess.run([*command, *defines, *sources, *target], check=True, env=clean_environment())
    return folder


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def run_case(script: Path, name: str, driver: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    command = [sys.executable, str(script), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.mark.parametrize("name", CASES)
def test_with_a_stand_in_driver(name: str, driver: Path) -> None:
    run_case(CASES[name], name, driver)


def test_a_failed_initialisation_is_named_and_tried_again(driver: Path) -> None:
    run_case(LOOP_CASES, "failed_initialisation_is_named_and_tried_again", driver)


@pytest.mark.parametrize(
    ("define", "case"),
    [
        ("-DFAKE_OLD_DRIVER", "old_driver_is_named"),
        ("-DFAKE_NO_VIRTUAL_MEMORY", "no_virtual_memory_is_named"),
    ],
)
def test_a_driver_or_a_gpu_that_cannot_serve_is_named(
    define: str, case: str, tmp_path: Path
) -> None:
    run_case(LOOP_CASES, case, build_driver(tmp_path, define))


def test_the_declared_types_are_those_of_the_real_cuda_header() -> None:
    triton = importlib.util.find_spec("triton")
    if triton is None or triton.origin is None:
        pytest.skip("triton, whose package has cuda.h, is not installed")
    include = Path(triton.origin).parent / "backends" / "nvidia" / "include"
    command = ["c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{NATIVE.parent}", f"-isystem{include}", str(NATIVE / "cuda_abi.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr
