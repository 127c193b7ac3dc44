"""The name of a machine: everything that a measured time depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuning_bench import ADDMM, PROJ, SPLIT, Bench, never, tuner

from l2c_rt.backends.cuda.tuning import machine


def test_another_gpu_library_or_kernel_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tune.json"
    bench = Bench({SPLIT: 0.1})
    tuner(bench, path).linear(PROJ, bench.make)
    keys = {machine.machine_key("H200")}
    assert tuner(None, path, "B200").linear(PROJ, never) == ADDMM
    for name, value in (
        ("torch.__version__", "9.9"),
        ("triton.__version__", "9.9"),
        ("l2c_rt.backends.cuda.tuning.machine.LINEAR_TILES", ()),
        ("l2c_rt.backends.cuda.tuning.machine.KERNEL_FILES", ("linear",)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            keys.add(machine.machine_key("H200"))
            assert tuner(None, path).linear(PROJ, never) == ADDMM
    assert len(keys) == 5
    assert tuner(None, path).linear(PROJ, never) == SPLIT


@pytest.mark.parametrize("name", ["CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE"])
def test_another_workspace_of_cublas_has_other_algorithms_and_is_another_machine(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    keys = {machine.machine_key("H200")}
    for size in ("1024", "32768"):
        monkeypatch.setenv(name, size)
        keys.add(machine.machine_key("H200"))
    assert len(keys) == 3
