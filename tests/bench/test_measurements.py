"""The GPU suite's measurements at toy size on a CPU: what their files hold, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_gpu import stop_if_broken
from cpu_suite import CPU, DIT, UVIT, toy_rig
from gpu.measurements import check, run_result, timed_programs
from gpu.peers import Program
from gpu.results import file_of, measured
from gpu.start import start_result

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[2]


def test_a_run_holds_what_tables_and_plots_need() -> None:
    result = run_result(toy_rig(), DIT, 2)
    assert len(result["samples"]["cached"]) == len(result["samples"]["full"]) == 2
    assert sum(result["floors"]["per_step"]) == pytest.approx(result["floors"]["kernelwise"])
    # Equal but for rounding where one ceiling binds every kernel: the sums run in other orders.
    assert result["floors"]["kernelwise"] >= result["floors"]["run"] * (1 - 1e-12) > 0
    assert result["compute"][0] == "######"
    assert result["limit"] > 1
    assert result["summary"]["graphs"]["graph_bytes"] == 0


def test_a_model_with_long_skips_is_also_timed_in_the_delta_form() -> None:
    result = run_result(toy_rig(), UVIT, 2)
    assert len(result["samples"]["delta"]) == len(result["samples"]["cached"])
    assert result["differences"]["delta"]["difference"] <= 2e-5
    assert set(run_result(toy_rig(), DIT, 2)["samples"]) == {"cached", "full"}


@pytest.mark.parametrize("wrong", [1.02, float("nan")])
def test_a_wrong_result_is_not_timed(wrong: float) -> None:
    rig = toy_rig()
    expected, _ = rig.reference("dit-toy", None, 6)

    def program(factor: float) -> Program:
        return Program(lambda: factor * expected, ("dit-toy", None))

    assert check(rig, "near", program(1 + 1e-6), 6)["difference"] == pytest.approx(1e-6, rel=0.1)
    with pytest.raises(ValueError, match=r"wrong: differs .* not timed"):
        timed_programs(rig, 6, {"near": program(1), "wrong": program(wrong)})
    assert check(rig, "loose", replace(program(1.02), bounded=False), 6).keys() == {"difference"}


# the files


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("2 GiB"), KeyError("x"), None])
def test_a_file_holds_the_result_or_the_traceback(error: Exception | None, tmp_path: Path) -> None:
    def measure() -> dict[str, Any]:
        if error is not None:
            raise error
        return {"samples": {"cached": [1.0]}}

    file = file_of(tmp_path / "new", "bench_run[case-n1]")
    result = measured(file, {"id": file.stem, "command": "pytest"}, CPU, measure)
    assert [path.name for path in file.parent.iterdir()] == ["run-case-n1.json"]
    assert result["versions"]["torch"] == torch.__version__
    assert result["device"] == {"name": "cpu"}
    if error is None:
        assert result["samples"] == {"cached": [1.0]}
        return
    assert "in measure\n" in result["failed"]
    assert type(error).__name__ in file.read_text()


def test_others_warnings_are_kept_with_the_result(tmp_path: Path) -> None:
    import warnings

    def warn() -> dict[str, Any]:
        warnings.warn("not enough SMs", UserWarning, stacklevel=1)
        return {}

    result = measured(tmp_path / "loud.json", {}, CPU, warn)
    assert result["warnings"] == ["UserWarning: not enough SMs"]


SUITE = """
import pytest
from bench_gpu import record
from cpu_suite import toy_rig

@pytest.fixture(scope="module")
def rig():
    return toy_rig()

def bench_good(record):
    record(lambda rig: {})

def bench_bad(record):
    record(lambda rig: 1 / 0)
"""


def test_a_second_call_goes_on_from_where_the_first_was_stopped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    # Other people's plugins would be imported anew at every call.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makefile(".ini", pytest="[pytest]\npython_functions = bench_*\n")
    pytester.makeconftest((ROOT / "bench" / "conftest.py").read_text())
    pytester.makepyfile(test_suite=SUITE)

    def outcomes(*words: str) -> dict[str, int]:
        result = pytester.runpytest_inprocess("--results", "out", *words)
        counts: dict[str, int] = result.parseoutcomes()
        return counts

    assert outcomes("-k", "good") == {"passed": 1, "deselected": 1}
    assert outcomes() == {"skipped": 1, "failed": 1}
    # Also a failure is not repeated: its traceback is there to be read.
    assert "ZeroDivisionError" in (pytester.path / "out" / "bad.json").read_text()
    assert outcomes() == {"skipped": 2}
    assert outcomes("--fresh") == {"passed": 1, "failed": 1}


def test_a_failure_that_broke_the_device_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    stop_if_broken()

    def raise_it() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", raise_it)
    with pytest.raises(pytest.exit.Exception, match="no longer answers .* illegal memory access"):
        stop_if_broken()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which it would start")
def test_a_cold_start_that_fails_says_what_its_process_wrote() -> None:
    with pytest.raises(RuntimeError, match=r"gpu\.start.*\n(.*\n)*.*(CUDA|NVIDIA)"):
        start_result()
