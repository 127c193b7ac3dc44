"""Programs of one input shape: their graphs, captures that fail, the residual stream."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from taped_graphs import TapeRecorder, compile_taped
from three_backends import assert_same
from toys import (
    call_inputs,
    count_branches,
    drive,
    random_schedule,
    toy_dit,
)

from l2c_rt.notices import L2CWarning
from l2c_rt.policies import Full
from l2c_rt.runtime.compiled import Compiled

STEPS = 8


def fresh(model: Any = None, **options: Any) -> Compiled:
    """A toy of STEPS steps on tapes."""
    model = toy_dit() if model is None else model
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile_taped(model, schedule, **options)


def test_graphs_are_one_per_distinct_step_and_three_for_weights_and_tables() -> None:
    fast = fresh()
    drive(fast, STEPS)
    drive(fast, STEPS, 1)
    captured = fast.summary().graphs
    assert captured.graphs == len(fast.plan.steps) + 3
    assert captured.replays == 2 * STEPS
    assert captured.buffer_bytes > 0
    assert "graphs of" in str(fast.summary())


class FailsToCapture(TapeRecorder):
    def capture(self, work: Any) -> Any:
        if self.taped == 3:
            raise torch.OutOfMemoryError("out of memory while capturing")
        return super().capture(work)


def test_steps_that_cannot_be_captured_are_launched_kernel_by_kernel_and_said() -> None:
    model = toy_dit()
    fast = fresh(model, recorder=FailsToCapture, forgiving=True)
    with pytest.warns(L2CWarning, match="graphs not captured"):
        outputs = drive(fast, STEPS)
    assert_same(outputs, drive(fresh(model), STEPS))
    (reason,) = fast.summary().reasons
    assert "graphs not captured" in reason
    assert "out of memory while capturing" in reason


def test_a_failed_capture_is_an_error_where_graphs_were_asked_for() -> None:
    fast = fresh(recorder=FailsToCapture)
    with pytest.raises(RuntimeError, match='free memory.*graph="off"'):
        fast(*call_inputs(0))
    assert not fast.run.clock.mid_run


def test_a_float32_stream_is_nearer_the_truth_than_a_bf16_one() -> None:
    model = toy_dit(depth=6).to(torch.bfloat16)
    exact = copy.deepcopy(model).double()
    schedule = Full().schedule(4, tuple(f"{k}-{i}" for i in range(6) for k in ("attn", "mlp")))
    errors = []
    for residual_dtype in (None, torch.float32):
        fast = compile_taped(model, schedule, residual_dtype=residual_dtype)
        total = 0.0
        for step in range(4):
            x, t, y = call_inputs(step)
            x = x.to(torch.bfloat16)
            with torch.no_grad():
                truth = exact(x.double(), t, y)
            total += (fast(x, t, y).double() - truth).square().mean().item()
        errors.append(total)
    assert errors[1] < 0.8 * errors[0]


def test_an_input_of_another_size_is_refused_with_the_sizes() -> None:
    fast = fresh()
    _, t, y = call_inputs(0)
    with pytest.raises(ValueError, match=r"x must be \[n, 4, 8, 8\].*got \[2, 4, 16, 8\]"):
        fast(torch.zeros(2, 4, 16, 8), t, y)
