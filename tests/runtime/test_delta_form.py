"""compile(delta_form=True): the same images, with fewer products, or refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from delta_oracle import DeltaOracle
from published_outputs import relative
from three_backends import assert_same, compiled, every_backend
from toys import call_inputs, drive, noise, toy_uvit

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.api import Compiled, build, compile
from l2c_rt.backends.backend import Backend, Evaluation, WrongResultError
from l2c_rt.backends.reference import Reference, reference_backend
from l2c_rt.notices import L2CWarning
from l2c_rt.plan.ops import StepPlan
from l2c_rt.policies import Full
from l2c_rt.runtime.last_run import Act
from l2c_rt.schedule.cache_schedule import CacheSchedule

STEPS = 8
BASE_OF = {1: 0, 3: 2, 4: 2, 6: 5}
"""Of the table below: 7 computes branches between its long skips, and 2 and 5 everything."""


def schedule() -> CacheSchedule:
    """For a U-ViT of five blocks."""
    rows = ["##########", "..#......#", "##########", "..........", ".#.#...#..", "##########",
            "..........", "..#.######"]  # fmt: skip
    return CacheSchedule(np.array([[cell == "#" for cell in row] for row in rows]))


def delta(model: Any = None, backend: str = "reference", **options: Any) -> Compiled:
    model = toy_uvit(depth=4) if model is None else model
    return compiled(backend, model, schedule(), delta_form=True, **options)


def runs(fast: Any, dtype: torch.dtype, seed: int = 0, batch: int = 2) -> list[torch.Tensor]:
    outputs = []
    for k in range(STEPS):
        x, t, y = call_inputs(k, seed, batch)
        with torch.no_grad():
            outputs.append(fast(x.to(dtype), t, y))
    return outputs


@pytest.mark.parametrize(
    ("backend", "dtype", "bound"),
    [("reference", torch.float64, 1e-12), ("reference", torch.float32, 1e-6),
     ("fused", torch.float64, 1e-12), ("fused", torch.float32, 1e-6),
     ("cuda", torch.float32, 1e-6)],
)  # fmt: skip
def test_every_evaluation_gives_what_the_ordinary_form_and_the_formula_give(
    backend: str, dtype: torch.dtype, bound: float
) -> None:
    model = toy_uvit(depth=4).to(dtype)
    fast = delta(model, backend)
    assert fast.summary().delta_evaluations == len(BASE_OF)
    ordinary = runs(compile(model, schedule(), backend="reference"), dtype)
    formula = runs(DeltaOracle(model, schedule().compute, BASE_OF), dtype)
    for got, plain, by_formula in zip(runs(fast, dtype), ordinary, formula, strict=True):
        assert relative(got, plain) < bound
        assert relative(got, by_formula) < bound


@every_backend
def test_in_bfloat16_it_is_no_further_off_than_the_slots_are(backend: str) -> None:
    truth = runs(compile(toy_uvit(depth=4).double(), schedule(), backend="reference"),
                 torch.float64)  # fmt: skip
    model = toy_uvit(depth=4).bfloat16()
    plain = runs(compile(model, schedule(), backend="reference"), torch.bfloat16)
    errors = [
        [relative(out.double(), t) for out, t in zip(outputs, truth, strict=True)]
        for outputs in (runs(delta(model, backend), torch.bfloat16), plain)
    ]
    assert max(errors[0]) <= 2 * max(errors[1])


def test_an_evaluation_that_computes_everything_is_bitwise_the_models_own() -> None:
    model = toy_uvit(depth=4)
    outputs, own = drive(delta(model), STEPS), drive(model, STEPS)
    assert_same([outputs[s] for s in (0, 2, 5)], [own[s] for s in (0, 2, 5)])


@every_backend
def test_a_run_after_one_that_was_left_or_on_other_inputs_is_that_of_a_fresh_model(
    backend: str,
) -> None:
    model = toy_uvit(depth=4)
    fast, expected = delta(model, backend), drive(delta(model, backend), STEPS)
    for left_after in (1, 3, 7):
        drive(fast, left_after, seed=9)
        fast.reset()
        fast.poison()
        assert_same(drive(fast, STEPS), expected)
    others = drive(delta(model, backend), STEPS, seed=3, batch=3)
    assert_same(drive(fast, STEPS, seed=3, batch=3), others)
    assert_same(drive(fast, STEPS), expected)


@every_backend
def test_two_models_and_two_sessions_in_turn_keep_their_own_streams(backend: str) -> None:
    models = [toy_uvit(depth=4), toy_uvit(depth=4, mlp_time_embed=True)]
    first, second = (delta(model, backend) for model in models)
    alone = [
        drive(delta(model, backend), STEPS, seed) for seed, model in enumerate((*models, models[0]))
    ]
    loops = [first, second, first.session()]
    outputs: list[list[torch.Tensor]] = [[], [], []]
    for k in range(STEPS):
        for seed, fast in enumerate(loops):
            outputs[seed].append(fast(*call_inputs(k, seed)))
    for got, expected in zip(outputs, alone, strict=True):
        assert_same(got, expected)


@every_backend
@pytest.mark.parametrize("counted", [True, False])
def test_weights_that_changed_between_runs_are_those_of_the_next_run(
    backend: str, counted: bool
) -> None:
    """Also where they were written to in a way that PyTorch does not count."""
    model = toy_uvit(depth=4)
    fast = delta(model, backend)
    drive(fast, STEPS)
    with torch.no_grad():
        for block in model.out_blocks:
            weight = block.skip_linear.weight
            (weight if counted else weight.data).mul_(1.5)
    assert_same(drive(fast, STEPS), drive(delta(model, backend), STEPS))


def test_weights_that_change_within_a_run_count_from_the_next_evaluation_on() -> None:
    outputs = []
    for backend in ("fused", "reference"):
        model = toy_uvit(depth=4)
        fast = delta(model, backend)
        drive(fast, STEPS)
        first = drive(fast, 3)
        with torch.no_grad():
            model.out_blocks[1].skip_linear.weight.mul_(1.5)
        outputs.append(first + drive(fast, STEPS, start=3))
    for fused, reference in zip(*outputs, strict=True):
        assert relative(fused, reference) < 1e-5


def test_where_a_backend_gives_way_to_the_reference_that_is_in_the_delta_form_too() -> None:
    class Wrong(Reference):
        def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
            raise WrongResultError("a sum is wrong")

    def select(model: BoundModel) -> Backend:
        right = reference_backend(model, delta_form=True)
        return replace(right, workspace=lambda plan: Wrong(model), replaceable=True)

    fast = build(toy_uvit(depth=4), schedule(), select)
    with pytest.warns(L2CWarning, match="fused backend not used: a sum is wrong"):
        outputs = drive(fast, STEPS)
    assert_same(outputs, drive(delta(), STEPS))
    assert fast.summary().delta_evaluations == len(BASE_OF)


@every_backend
def test_two_calls_per_step_and_sample_go_on_as_they_do(backend: str) -> None:
    model = toy_uvit(depth=4)
    latents = [
        compiled(backend, model, schedule(), delta_form=form).sample(noise(), [1, 7], cfg_scale=1.5)
        for form in (False, True)
    ]
    assert relative(latents[1], latents[0]) < 1e-5
    two = delta(model, backend, calls_per_step=2)
    one = drive(delta(model, backend), STEPS)
    assert_same([two(*call_inputs(k // 2)) for k in range(2 * STEPS)][::2], one)


def test_an_unchanged_branch_is_shown_as_reused() -> None:
    model = toy_uvit(depth=4)
    plain, fast = compile(model, schedule(), backend="reference"), delta(model)
    drive(plain, STEPS)
    drive(fast, STEPS)
    assert (fast.last_run.acts == plain.last_run.acts).all()
    assert (fast.last_run.acts[3] == Act.REUSED).all()
    assert fast.summary().reused == plain.summary().reused
    assert fast.last_run.schedule().compute.tolist() == schedule().compute.tolist()
    assert str(fast.last_run) == str(plain.last_run)


def test_the_summary_says_how_many_evaluations_are_in_the_delta_form_or_that_none_is() -> None:
    assert "5 distinct steps, 4 in the delta form" in str(delta().summary())
    assert "in the delta form" not in str(compiled("reference", toy_uvit(), Full(), steps=3
                                                   ).summary())  # fmt: skip
    none = compiled("reference", toy_uvit(), Full(), steps=3, delta_form=True, strict=True)
    assert any("delta_form=True changes nothing" in note for note in none.summary().notes)
