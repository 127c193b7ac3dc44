"""An engine's first evaluation on a machine: a kernel that is wrong never gives a result."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from published_outputs import relative
from served import STEPS, at_ticks, image
from taped_graphs import TapedKernels, compile_taped
from toys import count_branches, random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.backends.backend import WrongResultError
from l2c_rt.backends.cuda.checking.checked_file import CheckedShapes
from l2c_rt.kernels import reference
from l2c_rt.notices import L2CWarning


def compiled(make: Any, kernels: TapedKernels | None = None, **options: Any) -> rt.Compiled:
    """Predictions too, checked at the first run."""
    model = make()
    schedule = rt.correctors.corrected(
        random_schedule(STEPS, count_branches(model), seed=7), rt.correctors.Taylor(1)
    )
    options = {"checked": CheckedShapes("a machine", None), **options}
    return compile_taped(model, schedule, kernels=kernels, **options)


def wrong_where_samples_lie_apart(name: str) -> TapedKernels:
    """A kernel that takes the samples' order for the place of their slots."""
    right = getattr(reference, name)

    def wrong(*args: Any, places: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if places is not None:
            places = torch.stack([places[:, 0].flip(0), places[:, 1]], 1)
        return right(*args, places=places, **kwargs)

    functions = {op: getattr(reference, op) for op in reference.__all__}
    return TapedKernels(SimpleNamespace(**(functions | {name: wrong})))


@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_right_kernels_pass_and_the_check_changes_no_bit(make: Any) -> None:
    outs = []
    for checked in (CheckedShapes("a machine", None), None):
        fast = compiled(make, checked=checked)
        with rt.Engine(fast, max_batch=2) as engine:
            futures = at_ticks(engine, [0, 2], lambda i: engine.submit(image(i), i))[1]
        outs.append([future.result(0) for future in futures])
    for a, b in zip(*outs, strict=True):
        assert torch.equal(a, b)


WRONG = pytest.mark.parametrize(
    ("make", "name"),
    [(toy_dit, "split_gate_residual_norm_modulate"), (toy_uvit, "split_residual_norm"),
     (toy_dit, "split_sum")],
)  # fmt: skip


@WRONG
def test_a_wrong_kernel_is_named_when_the_engine_is_made(make: Any, name: str) -> None:
    fast = compiled(make, wrong_where_samples_lie_apart(name))
    with pytest.raises(WrongResultError, match=f"kernel {name} "):
        rt.Engine(fast)


def test_where_auto_chose_the_reference_serves_and_the_reason_is_said() -> None:
    name = "split_gate_residual_norm_modulate"
    fast = compiled(toy_dit, wrong_where_samples_lie_apart(name), forgiving=True)
    with pytest.warns(L2CWarning, match=f"fused backend not used: the kernel {name} computes"):
        engine = rt.Engine(fast)
    with engine:
        out = engine.submit(image(1), 1).result(60)
    assert fast.backend.name == "reference"
    assert relative(out, fast.sample(image(1), [1])) < 2e-5
