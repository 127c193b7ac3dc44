"""Process-wide settings of PyTorch neither break a run nor change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from three_backends import BACKENDS, compiled
from toys import call_inputs, drive, random_schedule, toy_dit, toy_uvit

import l2c_rt as rt


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Any] = {
    "default device meta": lambda: torch.device("meta"),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic": deterministic,
}


def outputs(fast: rt.Compiled, calls: list[Any]) -> list[torch.Tensor]:
    noise, labels, steps = calls
    results = [fast(*step) for step in steps]
    return [*results, fast.sample(noise, labels)]


# Every two of a model, a backend and a mode.
@pytest.mark.parametrize(
    ("make", "backend", "mode"),
    [
        ((toy_dit, toy_uvit)[(i + j) % 2], backend, mode)
        for i, backend in enumerate(BACKENDS)
        for j, mode in enumerate(MODES)
    ],
)
def test_a_run_inside_of_a_mode_is_the_run_outside(make: Any, backend: str, mode: str) -> None:
    program = rt.compile(make(), rt.policies.Full(), steps=2).bound_model.program
    schedule = random_schedule(4, len(program.branch_names))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    calls = [noise, [1, 2], [call_inputs(k) for k in range(4)]]
    want = outputs(compiled(backend, make(), schedule), calls)
    model, entered = make(), MODES[mode]
    context: AbstractContextManager[Any] = entered()
    with context:
        fast = compiled(backend, model, schedule)
        got = outputs(fast, calls)
        assert not any(result.is_inference() for result in got)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    # And a run that begins inside of the mode may end outside.
    with entered():
        first = fast(*calls[2][0])
    rest = [fast(*step) for step in calls[2][1:]]
    assert all(torch.equal(a, b) for a, b in zip([first, *rest], want, strict=False))


def test_a_run_under_autocast_is_the_models_own_under_autocast() -> None:
    model = toy_dit()
    with torch.autocast("cpu", torch.bfloat16):
        want = drive(model, 3)
        got = drive(rt.compile(model, rt.policies.Full(), steps=3), 3)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
