"""What the router is trained on: the published pairs, and those of the model's own trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from published_loops import ddim_sample_loop, dpm_solver_loop, spaced_timesteps
from soft_oracle import SoftOracle
from torch import Tensor
from toys import toy_dit, toy_uvit

from l2c_rt import adapters
from l2c_rt.adapters.branch_forward import full_pass
from l2c_rt.families import DIT, UVIT
from l2c_rt.learning.pairs import data_pair, dropped, trajectory_pairs
from l2c_rt.sampling.loops import guided_call, run
from l2c_rt.sampling.solvers import ddim, dpm_solver

LABELS = torch.tensor([3, 7, 1])


def latents(seed: int = 0) -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def recorded_times(bound_model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Tensor]]:
    """(timestep, labels) of every evaluation that the walk runs."""
    seen: list[tuple[float, Tensor]] = []
    embed = bound_model.fixed["embed"]

    def watched(state: Any) -> None:
        seen.append((float(state.t[0]), state.y.clone()))
        embed(state)

    monkeypatch.setitem(bound_model.fixed, "embed", watched)
    return seen


def test_a_pair_of_latents_is_the_published_ddim_pair() -> None:
    model, steps = toy_dit(), 10
    bound_model, naive = adapters.bind(model), SoftOracle(model)
    clean = latents()
    pair = data_pair(bound_model, ddim(steps), DIT.valid_rows(steps), clean, LABELS, generator(5))
    # The same draws in the same order: the pair, the noise, the labels to drop.
    draws = generator(5)
    evaluation = sorted(DIT.valid_rows(steps))[int(torch.randint(5, (1,), generator=draws))]
    noise = torch.randn(clean.shape, generator=draws)
    y = torch.where(torch.rand(3, generator=draws) < 0.1, 10, LABELS)
    s = steps - evaluation
    assert s % 2 == 1
    assert pair.row == s - 1
    kept_times = spaced_timesteps(steps)
    bar = np.cumprod(1.0 - np.linspace(0.0001, 0.02, 1000))[kept_times]
    x = bar[s] ** 0.5 * clean + (1 - bar[s]) ** 0.5 * noise
    with torch.no_grad():
        eps = naive.record(x, torch.full((3,), kept_times[s]), y)[:, :4]
        x0 = (x - (1 - bar[s]) ** 0.5 * eps) / bar[s] ** 0.5
        x = bar[s - 1] ** 0.5 * x0 + (1 - bar[s - 1]) ** 0.5 * eps
        teacher = model(x, torch.full((3,), kept_times[s - 1]), y)
    torch.testing.assert_close(pair.teacher, teacher, rtol=1e-4, atol=1e-4)
    assert pair.teacher.shape[1] == 8
    for got, wanted in zip(pair.previous_outputs, naive.kept, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_pair_of_latents_is_the_published_dpm_solver_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, nfe = toy_uvit(), 20
    bound_model = adapters.bind(model)
    seen = recorded_times(bound_model, monkeypatch)
    times = {}
    for seed in range(60):
        seen.clear()
        pair = data_pair(bound_model, dpm_solver(nfe), UVIT.valid_rows(nfe), latents(), LABELS,
                         generator(seed))  # fmt: skip
        times[pair.row] = [t for t, _ in seen]
    assert sorted(times) == list(range(1, 10))
    # methods of the published code: row k is solver step k, evaluated at round(1000 t_k)
    whole = [1000, 900, 800, 700, 600, 500, 401, 301, 201, 101]
    assert [times[k][2] for k in sorted(times)] == whole[1:]
    for k, (first, middle, last) in times.items():
        assert first == pytest.approx(1000 - 99.9 * (k - 1), abs=1e-3)
        assert last < middle < first


def test_a_dpm_solver_pair_takes_one_whole_step_of_the_solver() -> None:
    model, nfe = toy_uvit(), 6
    bound_model, solver = adapters.bind(model), dpm_solver(6)
    found = {}
    for seed in range(40):
        clean = latents(1)
        pair = data_pair(bound_model, solver, UVIT.valid_rows(nfe), clean, LABELS, generator(seed))
        draws = generator(seed)
        torch.randint(2, (1,), generator=draws)
        noise = torch.randn(clean.shape, generator=draws)
        y = torch.where(torch.rand(3, generator=draws) < 0.1, 10, LABELS)
        found[pair.row] = pair, noise, y, clean
    pair, noise, y, clean = found[1]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bar = float(torch.cumprod(1 - betas, 0)[999])
    start = bar**0.5 * clean + (1 - bar) ** 0.5 * noise
    with torch.no_grad():
        # The published loop with three pairs, stopped after its first step.
        reached: list[Tensor] = []

        def call(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            reached.append(x)
            return model(x, t, y)

        dpm_solver_loop(call, start, LABELS, 10, nfe, 0.0)
        teacher = model(reached[4], torch.full((3,), 667.0), y)
    torch.testing.assert_close(pair.teacher, teacher, rtol=2e-3, atol=2e-3)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [6, 7])
def test_latent_pairs_are_of_trained_rows_only(steps: int) -> None:
    bound_model, table = adapters.bind(toy_dit(depth=1)), DIT.valid_rows(steps)
    met = {
        data_pair(bound_model, ddim(steps), table, latents(), LABELS, generator(seed)).row
        for seed in range(40)
    }
    assert met == {0, 2, 4}


def test_dropped_labels_are_the_same_in_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_model = adapters.bind(toy_dit(depth=1))
    seen = recorded_times(bound_model, monkeypatch)
    many = 0
    for seed in range(60):
        seen.clear()
        pair = data_pair(
            bound_model, ddim(6), DIT.valid_rows(6), latents(), LABELS, generator(seed)
        )
        pair.student(lambda x, t, y: full_pass(bound_model, x, t, y))
        labels = [y for _, y in seen]
        assert len(labels) == 3
        assert all(torch.equal(labels[0], other) for other in labels)
        many += int((labels[0] == 10).sum())
    assert 6 <= many <= 34


def test_a_tenth_of_the_labels_is_dropped_where_the_model_has_a_null_class() -> None:
    labels = torch.zeros(4000, dtype=torch.int64)
    bound_model = adapters.bind(toy_dit(depth=1))
    share = float((dropped(labels, bound_model, generator(0)) == 10).float().mean())
    assert 0.08 < share < 0.12
    without = adapters.bind(toy_dit(depth=1, class_dropout_prob=0.0))
    assert torch.equal(dropped(labels, without, generator(0)), labels)


@pytest.mark.parametrize("steps", [6, 7])
def test_ddim_trajectory_pairs_follow_the_guided_loop(steps: int) -> None:
    model = toy_dit()
    bound_model, noise = adapters.bind(model), latents()
    outputs: list[Tensor] = []
    ddim_sample_loop(
        lambda *args, **kw: model.forward_with_cfg(*args, **kw).detach(), noise, LABELS, 10, steps,
        1.5, lambda step, out: outputs.append(out[:3, :4]),
    )  # fmt: skip
    table = DIT.valid_rows(steps)
    pairs = list(trajectory_pairs(bound_model, ddim(steps), table, noise, LABELS, 1.5))
    assert [pair.row for pair in pairs] == [table[n] for n in sorted(table)]
    for evaluation, pair in zip(sorted(table), pairs, strict=True):
        torch.testing.assert_close(pair.teacher, outputs[evaluation], rtol=2e-4, atol=2e-4)
        again = pair.student(lambda x, t, y: full_pass(bound_model, x, t, y))
        assert torch.equal(again, pair.teacher)
        assert len(pair.previous_outputs) == 6
        assert pair.previous_outputs[0].shape[0] == 6


def test_what_is_kept_comes_from_the_evaluation_before() -> None:
    model = toy_dit()
    bound_model, table = adapters.bind(model), DIT.valid_rows(6)
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        calls.append((x, t, y))
        return full_pass(bound_model, x, t, y)

    naive = SoftOracle(model)
    guided = guided_call(watch, bound_model.sampling, LABELS, 2.0)
    list(run(ddim(6), guided, latents()))
    pairs = trajectory_pairs(bound_model, ddim(6), table, latents(), LABELS, 2.0)
    for evaluation, pair in zip(sorted(table), pairs, strict=True):
        with torch.no_grad():
            naive.record(*calls[evaluation - 1])
        for got, wanted in zip(pair.previous_outputs, naive.kept, strict=True):
            assert torch.equal(got, wanted)


def test_nothing_is_computed_twice_on_a_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_model = adapters.bind(toy_uvit())
    seen = recorded_times(bound_model, monkeypatch)
    pairs = list(
        trajectory_pairs(bound_model, dpm_solver(8), UVIT.valid_rows(8), latents(), LABELS, 0.4)
    )
    assert [pair.row for pair in pairs] == [1, 2, 3]
    assert len(seen) == 8
    assert all(torch.equal(y, torch.tensor([3, 7, 1, 10, 10, 10])) for _, y in seen)


def test_without_guidance_a_trajectory_has_no_null_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_model = adapters.bind(toy_dit(depth=1))
    seen = recorded_times(bound_model, monkeypatch)
    list(trajectory_pairs(bound_model, ddim(4), DIT.valid_rows(4), latents(), LABELS, None))
    assert all(torch.equal(y, LABELS) for _, y in seen)
