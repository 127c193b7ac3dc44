"""Kernels compiled side by side before the first launch, and products timed on cold weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from launch_recorder import Choosing, LogRecorder
from recorded_runs import model_of
from recording_driver import recorded_launches
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from l2c_rt.api import build
from l2c_rt.backends.cuda.branch_tuning import AttentionTask, LinearTask, settle
from l2c_rt.backends.cuda.cuda_parts import CudaParts, triton_kernels
from l2c_rt.backends.cuda.support import fused_cuda_backend
from l2c_rt.backends.cuda.tuning.candidates import attention_candidates, linear_candidates
from l2c_rt.backends.cuda.tuning.side_by_side import compile_side_by_side
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.options import Options
from l2c_rt.backends.tuning.problems import AttentionProblem, LinearConfig, LinearProblem
from l2c_rt.kernels import linear as module
from l2c_rt.kernels._launch import LINEAR_TILES
from l2c_rt.policies import Full

BF16 = torch.bfloat16


def linear_task(columns: int = 88, branches: int = 3) -> LinearTask:
    weights = [(torch.randn(columns, 64, dtype=BF16), None) for _ in range(branches)]
    problem = LinearProblem(32, columns, 64, False, None, "bfloat16", False)
    x, out = torch.randn(2, 16, 64, dtype=BF16), torch.empty(2, 16, columns, dtype=BF16)
    return LinearTask(problem, x, weights, out)


def calls_of(columns: int) -> list[Callable[[], None]]:
    """The same product by every tile."""
    x, out = torch.empty(2, 16, 64, dtype=BF16), torch.empty(2, 16, columns, dtype=BF16)
    weight = torch.empty(columns, 64, dtype=BF16)

    def call(tile: Any) -> Callable[[], None]:
        def launch() -> None:
            module.linear(x, weight, out=out, tile=tile)

        return launch

    return [call(tile) for tile in LINEAR_TILES[:3]]


class TorchCalls(TorchDispatchMode):
    """The operators that compute something, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and any(k in str(func) for k in ("mm", "neg")):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def compiled() -> int:
    return sum(len(cache[0]) for cache in module._linear_kernel.device_caches.values())


def test_results_that_others_read_are_timed_with_their_reading() -> None:
    # As partial sums are: a launch that only some pay would decide.
    task = linear_task()
    splittable = LinearTask(replace(task.problem, splittable=True), task.x, task.weights, task.out)
    for candidate, kernels in ((task, 1), (splittable, 2)):
        with TorchCalls() as calls:
            candidate.timed(None, LinearConfig("addmm"))()
        assert len(calls.names) == kernels


def test_every_kernel_is_compiled_and_none_is_launched() -> None:
    calls = calls_of(columns=104)
    with recorded_launches() as launches:
        before = compiled()
        compile_side_by_side(calls)
        assert launches == []
        assert compiled() == before + len(calls)
        for call in calls:
            call()
        # Nothing was left to compile.
        assert compiled() == before + len(calls)
    assert len(launches) == len(calls)


def test_a_call_that_fails_is_passed_over_and_fails_again_where_it_is_launched() -> None:
    def fails() -> None:
        raise ValueError("this tile does not fit")

    calls = calls_of(columns=112)
    with recorded_launches():
        before = compiled()
        compile_side_by_side([fails, *calls])
        assert compiled() == before + len(calls)


def test_without_triton_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton.runtime._async_compile", None)
    called: list[int] = []
    compile_side_by_side([lambda: called.append(1)])
    assert called == []


class Watched(Tuner):
    """A tuner for a GPU that measures all as equally fast."""

    def __init__(self, measure: bool) -> None:
        self.ahead: list[Callable[[], None]] = []
        super().__init__("log", None, (lambda call: 1.0) if measure else None)

    def compile_ahead(self, calls: Any) -> None:
        self.ahead += calls


def attention_task() -> AttentionTask:
    problem = AttentionProblem(2, 16, 2, 72, "bfloat16")
    qkv, out = torch.randn(2, 16, 3 * 144, dtype=BF16), torch.empty(2, 16, 144, dtype=BF16)
    return AttentionTask(problem, qkv, None, out)


@pytest.mark.parametrize("measure", [True, False])
def test_all_candidates_of_all_problems_that_are_to_be_measured_are_compiled_first(
    measure: bool,
) -> None:
    tuner, tasks = Watched(measure), (linear_task(), attention_task())
    with recorded_launches():
        settle(tasks, tuner, triton_kernels())
        candidates = len(linear_candidates(tasks[0].problem))
        candidates += len(attention_candidates(tasks[1].problem))
        assert len(tuner.ahead) == (candidates if measure else 0)
        # Known by now.
        settle(tasks, tuner, triton_kernels())
        assert len(tuner.ahead) == (candidates if measure else 0)


def test_a_product_is_timed_on_the_weights_of_all_branches_in_turn() -> None:
    task, used = linear_task(branches=3), list[Tensor]()

    def linear(x: Tensor, weight: Tensor, bias: Any, **more: Any) -> None:
        used.append(weight)

    call = task.call(SimpleNamespace(linear=linear), LinearConfig("triton", (64, 64, 64, 4, 4, 8)))
    for _ in range(5):
        call()
    assert [id(w) for w in used] == [id(task.weights[i % 3][0]) for i in range(5)]


def test_a_candidate_that_leaves_nan_behind_does_not_spoil_the_next_problem() -> None:
    # What one problem writes the next one reads: the last candidate of the first fails midway.
    first, second = linear_task(columns=64), linear_task(columns=64)
    second = LinearTask(second.problem, first.out, second.weights, second.out)
    first.out.fill_(float("nan"))
    tuner = Tuner("log", None, lambda call: 1.0, device="cpu")
    settle([second], tuner, SimpleNamespace(linear=_nothing))
    # The default was checked and found right, on numbers.
    assert [s for s in tuner.skipped if "addmm" in s] == []


def _nothing(*args: Any, **more: Any) -> None:
    return None


def test_a_steps_kernels_are_compiled_before_it_is_first_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead: list[int] = []

    def compile_ahead(tuner: Tuner, calls: Any) -> None:
        log = len(launches)
        compile_side_by_side(calls)
        assert len(launches) == log
        ahead.append(len(calls))

    monkeypatch.setattr(Choosing, "compile_ahead", compile_ahead)
    with recorded_launches() as launches:
        cuda = CudaParts(
            triton_kernels(), lambda device: LogRecorder(launches), Choosing("kernels")
        )
        fast = build(
            model_of("dit full"), Full(),
            lambda described: fused_cuda_backend(described, cuda, Options()),
            steps=4, strict=True, check="off",
        )  # fmt: skip
        fast.sample(torch.randn(1, 4, 8, 8), torch.arange(1))
    # No candidate, since nothing is measured; then every distinct step.
    assert ahead == [0, 1]
    assert len(launches) > 28 * 7
