"""What `last_run` says of a run: acts and metrics, of decided and of planned runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from block_models import OneStream, built, inputs, times
from small_diffusers import cogvideox, cogvideox_calls, cogvideox_timesteps
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.methods import DBCache, FasterCache, FirstBlockCache, ToCa
from l2c_rt.policies import EveryN
from l2c_rt.runtime.last_run import Act

STEPS = 6


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def compiled(method: Any, **options: Any) -> Any:
    return rt.compile(built(OneStream, 5), method, steps=STEPS, timesteps=times(STEPS), **options)


def run(fast: Any, steps: int = STEPS) -> None:
    for step in range(steps):
        fast(**inputs(step))


def test_acts_and_metrics_of_a_method_that_decides() -> None:
    fast = compiled(FirstBlockCache(1e6))
    run(fast)
    last = fast.last_run
    assert last.acts.shape == (STEPS, 1, 5)
    assert (last.acts[0] == Act.COMPUTED).all()
    assert (last.acts[1:, 0] == [Act.COMPUTED] + [Act.REUSED] * 4).all()
    assert np.isnan(last.metric[0, 0])
    assert (last.metric[1:, 0] > 0).all()
    assert last.computed[:, 0].tolist() == [True] + [False] * (STEPS - 1)
    lines = str(last).splitlines()
    assert lines[1] == "    0  #####"
    assert lines[2].startswith("    1  #....  ")


def test_predictions_are_told_from_reuses() -> None:
    mask = (1, 1, 0, 1, 0, 0)
    fast = compiled(DBCache(1, max_warmup_steps=1, steps_computation_mask=mask, taylorseer_order=1,
                            steps_computation_policy="static"))  # fmt: skip
    run(fast)
    acts = fast.last_run.acts[:, 0, 1]
    assert acts[[0, 1, 3]].tolist() == [Act.COMPUTED] * 3
    assert acts[[2, 4, 5]].tolist() == [Act.PREDICTED] * 3


def test_the_run_of_a_schedule_is_the_schedule(tmp_path: Path) -> None:
    fast = compiled(EveryN(2), granularity="block")
    run(fast)
    assert (fast.last_run.schedule().compute == fast.schedule.compute).all()
    assert np.isnan(fast.last_run.metric).all()
    fast.last_run.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 0


def test_a_run_under_way_shows_what_it_did_so_far() -> None:
    fast = compiled(FirstBlockCache(0.1))
    run(fast, 2)
    assert (fast.last_run.acts[2:] == Act.NOT_RUN).all()
    with pytest.raises(ValueError, match="the run is at evaluation 2 of 6"):
        fast.last_run.schedule()


def test_a_session_has_a_last_run_of_its_own() -> None:
    fast = compiled(FirstBlockCache(0.1))
    with fast.session() as session:
        run(session)
        run(fast, 1)
        assert (session.last_run.acts[1:] != Act.NOT_RUN).all()
        assert (fast.last_run.acts[1:] == Act.NOT_RUN).all()


def test_a_branch_of_which_some_tokens_are_computed_is_told_from_a_reused_one() -> None:
    fast = rt.compile(toy_dit(4), ToCa(fresh_ratio=0.3), steps=STEPS, timesteps=times(STEPS))
    x, y = torch.randn(2, 4, 8, 8), torch.zeros(2, dtype=torch.long)
    for t in times(STEPS):
        fast(x, torch.full((2,), t), y)
    last = fast.last_run
    some = last.acts == Act.REFRESHED
    assert some.any()
    assert ((last.tokens > 0) == some).all()
    assert 0 < last.tokens[some].min() < 16
    assert "%" in "".join(str(last).splitlines()[1:-1])


def test_evaluations_of_half_a_batch_are_marked() -> None:
    steps = 20
    fast = rt.compile(
        cogvideox(), FasterCache(tensor_format="BFCHW"), steps=steps,
        timesteps=cogvideox_timesteps(steps),
    )  # fmt: skip
    list(cogvideox_calls(fast, steps))
    halved = fast.last_run.halved[:, 0]
    assert 0 < halved.sum() < steps
    assert str(fast.last_run).count("half of the batch") == halved.sum()
