"""Runs of learning in a user's loop: stopped and taken up, what they write, their fit report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_learning import toy_inputs, toy_loop
from toys import toy_dit

from l2c_rt.learning import learn
from l2c_rt.policies.router import Router

pytest.importorskip("matplotlib", reason="the plot extra is not installed")

pytestmark = pytest.mark.usefixtures("no_pictures")

SHORT = {"iterations": 5, "save_every": 1, "report": 0}


def learned(loop: Any = toy_loop, model: Any = None, **options: Any) -> Router:
    model = toy_dit(depth=1) if model is None else model
    return learn(model, steps=4, loop=loop, progress=False, **options)


class Interrupted:
    """The loop, interrupted as by a key in the middle of one run."""

    def __init__(self, at: int) -> None:
        self.runs, self.at = 0, at

    def __call__(self, m: Any, seed: int) -> Tensor:
        self.runs += 1
        if self.runs == self.at:
            toy_loop(lambda *inputs: self.stop(m, *inputs), seed)
        return toy_loop(m, seed)

    def stop(self, m: Any, *inputs: Tensor) -> None:
        m(*inputs)
        raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{}, {"lam": 0.02, "lr": 0.1}, {"granularity": "block"}])
def test_an_interrupted_run_is_taken_up_bit_for_bit(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    given = SHORT | options
    whole = learned(out=tmp_path / "whole", **given)
    # Two runs are rehearsals, so this is the fourth iteration.
    with pytest.raises(KeyboardInterrupt):
        learned(Interrupted(at=6), out=tmp_path / "stopped", **given)
    counted = Interrupted(at=0)
    resumed = learned(counted, out=tmp_path / "stopped", resume=True, **given)
    assert counted.runs == 2 + 5 - 3
    assert np.array_equal(whole.logits, resumed.logits)
    assert (resumed.training, resumed.timesteps) == (whole.training, whole.timesteps)
    lines = [
        [line.rpartition(",")[0] for line in (tmp_path / run / "log.csv").read_text().splitlines()]
        for run in ("whole", "stopped")
    ]
    assert lines[0] == lines[1]


def test_a_loop_that_draws_from_torchs_own_generator_is_learned_in_reproducibly() -> None:
    def careless(m: Any, seed: int) -> Tensor:
        x, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])
        return [m(x * (1 + k / 4), torch.full((2,), 900 - k), labels) for k in range(4)][-1]

    torch.manual_seed(1)
    first = learned(careless, iterations=2)
    torch.manual_seed(77)
    assert np.array_equal(learned(careless, iterations=2).logits, first.logits)


def test_a_loop_compiled_by_torch_is_learned_in_as_it_is() -> None:
    def compiled(m: Any, seed: int) -> Tensor:
        step = torch.compile(lambda k: m(*toy_inputs(k, seed)) * 1.0, backend="eager")
        return [step(k) for k in range(4)][-1]

    def plain(m: Any, seed: int) -> Tensor:
        return [m(*toy_inputs(k, seed)) * 1.0 for k in range(4)][-1]

    whole = learned(plain, iterations=1)
    assert np.array_equal(learned(compiled, iterations=1).logits, whole.logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "block"}, "begun with granularity='branch', now it is .*'block'"),
        ({"sites": ["blocks.*.attn"]}, "begun with sites=None, now it is sites="),
        ({"cfg_scale": 2.0}, "begun with cfg_scale=None"),
    ],
)
def test_another_run_is_not_taken_up(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    learned(out=tmp_path, **SHORT)
    with pytest.raises(ValueError, match=message):
        learned(out=tmp_path, resume=True, **(SHORT | options))


def test_a_published_run_and_one_in_a_loop_do_not_continue_each_other(tmp_path: Path) -> None:
    learned(out=tmp_path, **SHORT)
    with pytest.raises(ValueError, match="batch_size=None"):
        learn(toy_dit(depth=1), steps=4, out=tmp_path, resume=True, progress=False, iterations=5)


def test_the_folder_has_a_fit_report_of_what_the_loop_returns(tmp_path: Path) -> None:
    router = learned(out=tmp_path, iterations=2, report=3, calls_per_step=1)
    fit = json.loads((tmp_path / "fit.json").read_text())
    assert (fit["images"], fit["cfg_scale"], fit["steps"]) == (6, None, 4)
    assert fit["computed"] == router.schedule().compute.sum()
    assert len(fit["fits"][0]["psnr"]) == 6
    assert fit["fits"][0]["error"][0] == 0.0 < fit["fits"][0]["error"][-1]
    about = json.loads(router.training)
    assert (about["pairs"], about["options"]["calls_per_step"]) == ("own loop", 1)
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
