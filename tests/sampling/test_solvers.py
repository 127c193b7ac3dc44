"""The solvers' tables against the published loops and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published_loops import DiscreteNoise, ddim_sample_loop, dpm_solver_loop, spaced_timesteps

from l2c_rt.families import FAMILIES, Family
from l2c_rt.sampling import loops as sampling
from l2c_rt.sampling import solvers as samplers


@pytest.mark.parametrize("steps", [1, 2, 10, 20, 50, 250, 1000])
def test_timesteps_are_the_published_ones_reversed(steps: int) -> None:
    assert samplers.spaced_timesteps(steps) == tuple(reversed(spaced_timesteps(steps)))


def test_twenty_steps_are_spelled_out() -> None:
    assert samplers.spaced_timesteps(20)[:5] == (999, 946, 894, 841, 789)
    assert samplers.spaced_timesteps(20)[-3:] == (105, 53, 0)


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_outside_the_training_range_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"got {steps}, wanted 1 to 1000"):
        samplers.spaced_timesteps(steps)


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_ddim_walks_as_the_published_loop_does(steps: int) -> None:
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def eps(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.sin(x + t / 1000)

    def guided(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, cfg_scale: float) -> torch.Tensor:
        return eps(x, float(t[0]))

    want = ddim_sample_loop(guided, noise, torch.zeros(2, dtype=torch.long), 0, steps, 1.5)
    *_, got = sampling.run(samplers.ddim(steps), eps, noise)
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("evaluations", [2, 20, 50])
def test_dpm_solver_walks_as_the_published_loop_does(evaluations: int) -> None:
    noise = torch.randn(2, 3, 4, 4)

    def eps(x: torch.Tensor, t: float) -> torch.Tensor:
        return 0.1 * torch.sin(x + t / 1000)

    want = dpm_solver_loop(
        lambda x, t, y: eps(x, float(t[0])), noise, torch.zeros(2), 0, evaluations, 0.0
    )
    *_, got = sampling.run(samplers.dpm_solver(evaluations), eps, noise)
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-4)


def test_dpm_solver_times_fall_and_end_above_the_last_grid_point() -> None:
    times = samplers.dpm_solver(20).timesteps
    assert list(times) == sorted(times, reverse=True)
    assert times[0] == 1000.0
    assert 1.0 < times[-1] < 100.9
    mid = DiscreteNoise()
    assert np.isclose(times[1], 951.84174, rtol=1e-5), mid


def test_an_odd_number_of_evaluations_has_no_second_order_run() -> None:
    with pytest.raises(ValueError, match="even number of evaluations, at least 2; got 7"):
        samplers.solver_for("dpm-solver", 7)
    with pytest.raises(ValueError, match="at least 2; got 0"):
        samplers.dpm_solver(0)
    with pytest.raises(ValueError, match="'euler' is not one of ddim, dpm-solver"):
        samplers.solver_for("euler", 7)


@pytest.mark.parametrize("sampler", samplers.SOLVERS)
def test_an_update_is_the_published_formula_to_the_last_bit(sampler: str) -> None:
    solver, draw = samplers.solver_for(sampler, 6), torch.Generator().manual_seed(0)
    for k in range(6):
        x, eps, anchor = (torch.randn(2, 3, generator=draw) for _ in range(3))
        if isinstance(solver, samplers.DDIM):
            want = float(solver.a[k]) * x + float(solver.b[k]) * eps
        else:
            clean = (x - float(solver.sigma[k]) * eps) / float(solver.alpha[k])
            want = float(solver.keep[k]) * anchor + float(solver.weight[k]) * clean
        assert torch.equal(solver.update(k, x, eps, anchor), want)


@pytest.mark.parametrize("sampler", samplers.SOLVERS)
def test_a_run_keeps_the_start_of_each_solver_step_as_its_anchor(sampler: str) -> None:
    solver, noise = samplers.solver_for(sampler, 6), torch.tensor([1.0], dtype=torch.float64)
    table, x, anchor = solver.coefficients(), noise, torch.tensor([float("nan")])
    for k, latents in enumerate(sampling.run(solver, lambda x, t: torch.sin(x + t), noise)):
        a, b, c, save = table[k].tolist()
        eps = torch.sin(x + solver.timesteps[k])
        # Where c is 0 there may be no anchor yet.
        moved = a * x + b * eps + (c * anchor if c else 0.0)
        x, anchor = moved, x if save else anchor
        torch.testing.assert_close(latents, moved, rtol=1e-12, atol=1e-12)


def test_solvers_move_whatever_has_arithmetic() -> None:
    solver = samplers.dpm_solver(4)
    moved = solver.update(1, 0.5, -0.25, 0.75)
    assert isinstance(moved, float)
    many = solver.update(1, np.full(3, 0.5), np.full(3, -0.25), np.full(3, 0.75))
    assert many.tolist() == [moved] * 3


def test_only_the_first_evaluation_of_a_solver_step_starts_it() -> None:
    ddim, dpm = samplers.ddim(4), samplers.dpm_solver(4)
    assert [samplers.starts_step(ddim, k) for k in range(4)] == [True] * 4
    assert [samplers.starts_step(dpm, k) for k in range(4)] == [True, False, True, False]


@pytest.mark.parametrize("family", FAMILIES.values())
def test_a_familys_solver_takes_as_many_evaluations_per_step_as_it_says(family: Family) -> None:
    solver = samplers.solver_for(family.sampler, 4)
    assert solver.evaluations_per_step == family.evaluations_per_solver_step


def test_timesteps_go_to_the_model_in_the_dtype_of_the_published_loop() -> None:
    x = torch.zeros(2, 3)
    for solver, dtype in ((samplers.ddim(4), torch.int64), (samplers.dpm_solver(4), torch.float32)):
        for k, t in enumerate(solver.timesteps):
            assert sampling.timestep_tensor(t, x).dtype == dtype
            assert sampling.timestep_tensor(solver.training_timestep(k), x).dtype == dtype
