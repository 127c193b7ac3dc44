"""The solvers' tables against the published loops and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published_loops import DiscreteNoise, ddim_sample_loop, dpm_solver_loop, spaced_timesteps

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
    with pytest.raises(ValueError, match="even number of evaluations, the schedule has 7"):
        sampling.solver_for("dpm-solver", 7)
    with pytest.raises(ValueError, match="wanted at least 2"):
        samplers.dpm_solver(1)
    with pytest.raises(ValueError, match="'euler' is not one of ddim, dpm-solver"):
        sampling.solver_for("euler", 7)
