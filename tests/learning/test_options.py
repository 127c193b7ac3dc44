"""What a learning run is told: defaults, and refusals that name the argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_learning import learn_briefly
from toys import toy_dit, toy_uvit

from l2c_rt.learning.options import default_lr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1}, "steps=1 has no evaluation"),
        ({"steps": True}, "steps is True"),
        ({"iterations": 0}, "iterations is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lam": -1.0}, "lam is -1.0"),
        ({"lam": float("nan")}, "lam is nan"),
        ({"reuse": 1.5}, "reuse is 1.5"),
        ({"straight_through": 2.0}, "straight_through is 2.0"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"save_every": 0}, "save_every is 0"),
        ({"resume": True}, "resume=True needs out="),
        ({"data": [], "cfg_scale": 2.0}, "cfg_scale=2 with data"),
        ({"data": []}, "data gave no batch"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn_briefly(toy_dit(depth=1), **options)


def test_an_odd_number_of_evaluations_is_refused_for_dpm_solver() -> None:
    with pytest.raises(ValueError, match="DPM-Solver takes 2 evaluations.*got steps=7"):
        learn_briefly(toy_uvit(), steps=7)


def test_a_model_without_adapter_is_refused() -> None:
    with pytest.raises(TypeError, match="no adapter"):
        learn_briefly(torch.nn.Linear(2, 2))


def test_the_default_rate_fits_the_run() -> None:
    assert default_lr(1) == default_lr(100) == 0.3
    assert default_lr(360) == pytest.approx(0.1)
    assert default_lr(10**6) == 1e-3
