"""The delta form on a GPU, by the public way: `pytest -m gpu`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from delta_runs import delta_schedule
from gpu_runs import noise
from published_outputs import relative
from toys import count_branches, toy_uvit

from l2c_rt.api import compile
from l2c_rt.runtime.compiled import Compiled

pytestmark = pytest.mark.gpu
LABELS = [1, 2]


def uvit(dtype: torch.dtype = torch.bfloat16) -> Any:
    return toy_uvit(depth=6).to(dtype).cuda()


def fresh(model: Any, backend: str = "fused", **options: Any) -> Compiled:
    schedule = delta_schedule(count_branches(model))
    return compile(model, schedule, backend=backend, **({"tune": False} | options))


@pytest.mark.parametrize("graph", ["step", "trajectory", "off"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_run_is_at_most_twice_as_far_from_float64_as_the_reference(
    dtype: torch.dtype, graph: str
) -> None:
    model = uvit(dtype)
    fast, plain = fresh(model, graph=graph, delta_form=True), fresh(model, "reference")
    exact = fresh(copy.deepcopy(model).double(), "reference")
    true = exact.sample(noise().double(), LABELS)
    allowed = 2 * relative(plain.sample(noise(), LABELS), true)
    for _ in range(2):
        # Products in float32 may be TF32's, where a user allows it.
        assert relative(fast.sample(noise(), LABELS), true) < max(allowed, 2e-6)


@pytest.mark.parametrize("graph", ["step", "trajectory"])
def test_replays_over_poison_are_bitwise_the_kernels_one_by_one(graph: str) -> None:
    model = uvit()
    eager = fresh(model, graph="off", delta_form=True)
    replayed = fresh(model, graph=graph, delta_form=True)
    expected = eager.sample(noise(), LABELS)
    for run in range(20):
        replayed.poison()
        assert torch.equal(replayed.sample(noise(), LABELS), expected), run


def test_a_run_has_fewer_kernels_and_slots_than_in_the_ordinary_form() -> None:
    model = uvit()
    delta, ordinary = fresh(model, delta_form=True), fresh(model)
    for fast in (delta, ordinary):
        fast.sample(noise(), LABELS)
    assert delta.summary().graphs.nodes < ordinary.summary().graphs.nodes
    assert delta.summary().slots < ordinary.summary().slots


@pytest.mark.parametrize("counted", [True, False])
def test_the_next_run_composes_the_weights_as_they_are_then(counted: bool) -> None:
    model = uvit()
    fast = fresh(model, delta_form=True)
    before = fast.sample(noise(), LABELS)
    for parameter in model.parameters():
        if counted:
            with torch.no_grad():
                parameter.mul_(1.1)
        else:
            parameter.data.mul_(1.1)
    after = fast.sample(noise(), LABELS)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh(model, delta_form=True).sample(noise(), LABELS))


def test_sums_are_measured_and_chosen_as_other_products_are() -> None:
    model = uvit()
    fast = fresh(model, tune=True, delta_form=True)
    plain, true = fresh(model, "reference"), fresh(copy.deepcopy(model).double(), "reference")
    exact = true.sample(noise().double(), LABELS)
    error = relative(fast.sample(noise(), LABELS), exact)
    assert error < 2 * relative(plain.sample(noise(), LABELS), exact)
