"""The native half of products by cuBLASLt: against a stand-in library, and the real header."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cublas_lt_cases
import pytest

NATIVE = Path(__file__).resolve().parents[2] / "csrc" / "tests"
SCRIPT = Path(cublas_lt_cases.__file__)
CASES = [name.removeprefix("case_") for name in vars(cublas_lt_cases) if name.startswith("case_")]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in, under the older of the real names."""
    folder = tmp_path_factory.mktemp("cublas_lt")
    command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    target = ["-Wl,-soname,libcublasLt.so.12", "-o", str(folder / "libcublasLt.so.12"), "-lm"]
    source = str(NATIVE / "fake_cublas_lt.c")
    subprocess.run([*command, source, *target], check=True, env=clean_environment())
    return folder


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


@pytest.mark.parametrize("name", CASES)
def test_with_a_stand_in_library(name: str, library: Path) -> None:
    missing = "without" in name
    if missing and ctypes.util.find_library("cublasLt"):
        pytest.skip("the loader finds a cuBLASLt here")
    environment = {**os.environ, "LD_LIBRARY_PATH": "" if missing else str(library)}
    command = [sys.executable, str(SCRIPT), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def toolkits() -> Iterator[Path]:
    """Folders that may have headers of CUDA: PyTorch's packages lack some that a toolkit has."""
    for package in ("nvidia.cu13", "nvidia.cublas", "nvidia.cuda_runtime", "nvidia.cuda_cccl"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(place) / "include"
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home:
            yield Path(home) / "include"


def test_the_declared_types_are_those_of_the_real_header() -> None:
    folders = [folder for folder in toolkits() if folder.is_dir()]
    needed = ("cublasLt.h", "crt/host_defines.h", "nv/target")
    for header in needed:
        if not any((folder / header).is_file() for folder in folders):
            pytest.skip(f"no {header} here")
    command = ["c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{NATIVE.parent}", *(f"-isystem{folder}" for folder in folders)]
    command.append(str(NATIVE / "cublas_lt_abi.cpp"))
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr
