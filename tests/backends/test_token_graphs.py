"""ToCa and DuCa in captured graphs, on tapes: the reference's tokens, and its outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from published_outputs import relative
from taped_graphs import TapedKernels, compile_taped
from token_runs import chosen_tokens, noted_kernels
from torch import Tensor
from toys import noise, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.backends.backend import WrongResultError
from l2c_rt.backends.cuda.checking.checked_file import CheckedShapes
from l2c_rt.kernels import reference
from l2c_rt.methods import DuCa, ToCa

STEPS = 20
TIMES = [float(t) for t in range(STEPS - 1, -1, -1)]
METHODS = {
    "duca": DuCa(fresh_ratio=0.3),
    "toca": ToCa(fresh_ratio=0.3, fresh_threshold=4),
    "values": DuCa(fresh_ratio=0.3, cache_type="kv-norm"),
    "all tokens, no cells": ToCa(fresh_ratio=0.9, bonus=0, soft_fresh_weight=1.0),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
both_families = pytest.mark.parametrize("make", [toy_dit, toy_uvit])


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def drive(model: Any, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The outputs of a loop over a batch of four, whose inputs follow from nothing."""
    labels, outputs = torch.tensor([1, 5, 10, 10]), []
    for step, t in enumerate(TIMES):
        x = torch.cat([noise(step), noise(step + STEPS)]).to(dtype)
        outputs.append(model(x, torch.full((4,), t, dtype=dtype), labels))
    return outputs


def taped(model: Any, method: Any, **options: Any) -> Any:
    return compile_taped(model, method, steps=STEPS, timesteps=TIMES, **options)


@both_families
@every_method
def test_graphs_choose_the_references_tokens_and_err_no_more_than_twice_as_much(
    method: Any, make: Callable[[], Any]
) -> None:
    model, masks = make(), []  # type: ignore[var-annotated]
    tokens = rt.compile(model, method, steps=STEPS).bound_model.program.tokens
    plain = rt.compile(model, method, steps=STEPS, timesteps=TIMES, backend="reference")
    exact = copy.deepcopy(model).double()
    truth = drive(rt.compile(exact, method, steps=STEPS, timesteps=TIMES), torch.float64)
    with chosen_tokens(tokens) as expected:
        outputs = drive(plain)
    fast = taped(model, method, kernels=noted_kernels(tokens, masks))
    drive(fast)
    masks.clear()
    ours = drive(fast)
    some = [mask for mask in expected if mask.any()]
    assert len(masks) == len(some)
    assert all(map(torch.equal, masks, some))
    for got, eager, true in zip(ours, outputs, truth, strict=True):
        assert relative(got, true) <= 2 * relative(eager, true) + 1e-7


@both_families
def test_runs_by_graphs_are_bitwise_the_first_and_leave_nothing(make: Callable[[], Any]) -> None:
    fast = taped(make(), METHODS["duca"])
    first = drive(fast)
    fast(torch.cat([noise(3), noise(4)]), torch.full((4,), TIMES[0]), torch.tensor([1, 5, 10, 10]))
    fast.reset()
    fast.poison()
    assert all(map(torch.equal, drive(fast), first))
    captured = fast.summary().graphs
    assert captured.reasons == ()
    assert captured.graphs == len(fast.plan.steps) + 3


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@both_families
def test_whole_runs_give_the_references_latents_window_by_window(
    make: Callable[[], Any], graph: str
) -> None:
    model, method = make(), METHODS["duca"]
    expected = rt.compile(model, method, steps=STEPS).sample(noise(), [1, 2])
    whole = compile_taped(model, method, steps=STEPS, graph=graph)
    assert relative(whole.sample(noise(), [1, 2]), expected) < 1e-5
    few = 3 * whole.summary().table_bytes // STEPS
    cut = compile_taped(model, method, steps=STEPS, graph=graph, table_bytes=few)
    for _ in range(2):
        assert relative(cut.sample(noise(), [1, 2]), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_run_is_checked_and_changes_no_bit(dtype: torch.dtype) -> None:
    outputs = []
    for checked in (None, CheckedShapes("a machine", None)):
        fast = taped(toy_dit().to(dtype), METHODS["duca"], checked=checked)
        outputs.append(drive(fast, dtype))
        assert fast.summary().reasons == ()
    assert all(map(torch.equal, *outputs))


def wrong(name: str) -> TapedKernels:
    """Kernels of which one is off at the end of what it gives."""
    right = getattr(reference, name)

    def off(*args: Any, out: Any, **kwargs: Any) -> Any:
        result = right(*args, out=out, **kwargs)
        target = (out if isinstance(out, Tensor) else out[0]).view(-1)
        target[-1] += target.abs().max()
        return result

    functions = {op: getattr(reference, op) for op in reference.__all__}
    return TapedKernels(SimpleNamespace(**(functions | {name: off})))


@pytest.mark.parametrize("name", ["attention_logs", "attention_received", "unit_scores"])
def test_a_wrong_kernel_is_named_at_the_first_run(name: str) -> None:
    checked = CheckedShapes("a machine", None)
    fast = taped(toy_dit(), METHODS["duca"], kernels=wrong(name), checked=checked)
    with pytest.raises(WrongResultError, match=f"kernel {name} computes something else"):
        drive(fast)


def test_products_are_chosen_for_as_many_tokens_rounded_up_to_a_power_of_two() -> None:
    fast = taped(toy_dit(), METHODS["duca"])
    drive(fast)
    (lane,) = fast.run.lanes.all()
    choices = lane.workspace._call.shape_program.branches.choices
    rows = {problem.rows for problem in choices if hasattr(problem, "rows")}
    assert rows <= {4 * 2**i for i in range(5)}
    assert len(rows) > 2
