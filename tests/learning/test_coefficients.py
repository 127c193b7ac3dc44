"""Gates and coefficients learned together: the start, the slopes, the file, the resumed run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.learning.coefficients import (
    Coefficients,
    StartSums,
    by_lane,
    full_before,
    of_batch,
    of_router,
    predicted,
)
from l2c_rt.learning.output import Output
from l2c_rt.learning.state import draw_seed
from l2c_rt.schedule.predictions import Predictions

STEPS = 6
OPTIONS = {"steps": STEPS, "iterations": 4, "batch_size": 2, "progress": False,
           "corrector": "learned"}  # fmt: skip


def test_the_start_is_the_combination_that_outputs_are():
    random = torch.Generator().manual_seed(0)
    sums, truth = StartSums([5], 2, 3), torch.tensor([[1.8, -0.9, 0.1], [2.0, -1.0, 0.0]])
    for fold in range(4):
        before = [[torch.randn(64, generator=random) for _ in range(2)] for _ in range(3)]
        sums.see(5, fold, before, predicted(truth, before))
    coefficients = sums.coefficients([3])
    torch.testing.assert_close(coefficients.table()[0], truth, atol=1e-5, rtol=1e-5)


def test_a_step_goes_down_the_slope_in_rows_that_were_met():
    learned = Coefficients.begun(torch.zeros(2, 1, 2), torch.full((2, 1, 2), 0.5), (2, 2))
    learned.step(torch.ones(2, 1, 2), torch.tensor([True, False]))
    # 0.02 in both weights: of the output, and of its change since the one before.
    torch.testing.assert_close(learned.table()[0, 0], torch.tensor([1.0 - 0.02, 0.01]))
    assert learned.table()[1, 0].tolist() == [1.0, 0.0]


def test_only_evaluations_without_a_row_are_predicted_from():
    rows = {1: 0, 3: 1, 5: 2}
    assert full_before(5, rows, 2) == [4, 2]
    assert full_before(1, rows, 3) == [0]


def test_a_learned_router_predicts_in_its_schedules_and_its_file_keeps_that(tmp_path):
    router = rt.learn(toy_dit(), reuse=0.5, **OPTIONS)
    schedule = router.schedule(reuse=0.7)
    cells = (schedule.predictions.sources >= 0).any(axis=2)
    assert (cells == ~schedule.compute).all()
    assert set(schedule.predictions.sources[5].ravel()) <= {-1, 0, 2, 4}
    router.save(tmp_path / "router.safetensors")
    again = rt.Router.load(tmp_path / "router.safetensors")
    np.testing.assert_array_equal(again.coefficients, router.coefficients)
    assert again.schedule(reuse=0.7) == schedule
    fast = rt.compile(toy_dit(), again)
    assert torch.isfinite(fast.sample(torch.randn(1, 4, 8, 8), [1])).all()


def test_the_cut_that_was_learned_for_is_fitted_again_and_no_other(tmp_path):
    router = rt.learn(toy_dit(), reuse=0.5, cfg_scale=2.0, out=tmp_path, report=0, **OPTIONS)
    own, learned = router.schedule(), replace(router, fitted=None)
    again = rt.fit_corrector(
        toy_dit(), learned.schedule(), history=3, cfg_scale=2.0, progress=False,
        seed=draw_seed(0, OPTIONS["iterations"]),
    )  # fmt: skip
    assert own.predictions == again.fit.predictions
    assert own == router.schedule(reuse=0.5) != learned.schedule()
    assert router.schedule(reuse=0.7) == learned.schedule(reuse=0.7)
    assert rt.Router.load(tmp_path / "router.safetensors").schedule() == own
    assert rt.correctors.Fitted.load(tmp_path / "fitted.safetensors").fit == own


def test_a_fit_of_another_run_or_with_tensors_is_no_routers(tmp_path):
    router = rt.learn(toy_dit(), reuse=0.5, **OPTIONS)
    other = Predictions.from_terms(3, 6, {(1, 0): [(0, 1.0)]})
    with pytest.raises(ValueError, match=r"of \(3, 6\) cells, wanted 6 evaluations of 6 branches"):
        replace(router, fitted=other)
    tensors = Predictions.from_terms(STEPS, 6, {(1, 0): [(0, 1.0)]})
    tensors = replace(tensors, scale={(1, 0): np.ones((1, 1), np.float32)})
    with pytest.raises(ValueError, match="with tensors or rounding"):
        replace(router, fitted=tensors)


def test_learning_moves_the_coefficients_and_the_gates_know_of_them():
    router = rt.learn(toy_dit(), reuse=0.5, **OPTIONS)
    started = rt.learn(toy_dit(), reuse=0.5, **OPTIONS | {"iterations": 1})
    rows = list(router.valid_rows().values())
    assert not np.allclose(router.coefficients[rows], started.coefficients[rows], atol=1e-4)
    plain = rt.learn(toy_dit(), reuse=0.5, **OPTIONS | {"corrector": None})
    assert plain.coefficients is None
    assert not np.array_equal(plain.logits, router.logits)


def test_a_stopped_run_ends_at_the_same_coefficients(tmp_path, monkeypatch):
    whole = rt.learn(toy_dit(), out=tmp_path / "a", report=0, **OPTIONS)

    end = Output.end_iteration

    def stop(self, state):
        end(self, state)
        if state.iteration == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Output, "end_iteration", stop)
    with pytest.raises(KeyboardInterrupt):
        rt.learn(toy_dit(), out=tmp_path / "b", report=0, save_every=1, **OPTIONS)
    monkeypatch.undo()
    resumed = rt.learn(toy_dit(), out=tmp_path / "b", report=0, resume=True, **OPTIONS)
    np.testing.assert_array_equal(resumed.coefficients, whole.coefficients)
    np.testing.assert_array_equal(resumed.logits, whole.logits)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match="corrector is 'goc'"):
        rt.learn(toy_dit(), **OPTIONS | {"corrector": "goc"})
    with pytest.raises(ValueError, match="needs the trajectories of a published loop"):
        rt.learn(toy_dit(), loop=lambda model, seed: None, **OPTIONS | {"batch_size": None})
    with pytest.raises(ValueError, match='lanes=True is for corrector="learned"'):
        rt.learn(toy_dit(), lanes=True, **OPTIONS | {"corrector": None})
    with pytest.raises(
        ValueError, match="lanes=True with cfg_scale=1.0: lanes are cond and uncond"
    ):
        rt.learn(toy_dit(), lanes=True, cfg_scale=1.0, **OPTIONS)
    with pytest.raises(ValueError, match=r"are \(9, 4, 2, 1\), wanted \[4, 2, history\]"):
        rt.Router(np.zeros((4, 2), np.float32), "dit", 4, coefficients=np.zeros((9, 4, 2, 1)))
    with pytest.raises(ValueError, match="history is 0"):
        rt.learn(toy_dit(), history=0, **OPTIONS)
    with pytest.raises(ValueError, match="not finite"):
        rt.Router(np.zeros((4, 2), np.float32), "dit", 4,
                  coefficients=np.full((4, 2, 1), np.nan))  # fmt: skip


def test_cond_and_uncond_learn_coefficients_of_their_own_and_the_file_keeps_both(tmp_path):
    options = OPTIONS | {"reuse": 0.5, "cfg_scale": 2.0, "lanes": True}
    router = rt.learn(toy_dit(), out=tmp_path, report=0, **options)
    rows = list(router.valid_rows().values())
    first, second = router.coefficients[:, rows]
    assert not np.allclose(first, second, atol=1e-3)
    again = rt.Router.load(tmp_path / "router.safetensors")
    schedule = again.schedule(reuse=0.7)
    assert schedule == router.schedule(reuse=0.7)
    assert schedule.predictions.lanes == 2
    s, k = np.argwhere(~schedule.compute)[-1].tolist()
    for lane in (0, 1):
        terms = [coefficient for _, coefficient in schedule.predictions.at(s, k, lane)]
        assert terms == router.coefficients[lane, router.valid_rows()[s], k].tolist()
    guided = rt.compile(toy_dit(), again).sample(torch.randn(1, 4, 8, 8), [1], 2.0)
    assert torch.isfinite(guided).all()


def test_the_start_of_every_lane_is_a_fit_to_its_half_of_the_batch():
    random = torch.Generator().manual_seed(0)
    truth = torch.tensor([[1.8, -0.9], [0.5, 0.2]])
    sums = StartSums([1], 2, 2)
    for fold in range(4):
        before = [[torch.randn(8, 16, generator=random)] for _ in range(2)]
        halves = [by_lane(outputs, 2) for outputs in before]
        now = of_batch(predicted(truth, halves), 2)
        assert torch.equal(now[0][:4], 1.8 * before[0][0][:4] - 0.9 * before[1][0][:4])
        sums.see(1, fold, halves, by_lane(now, 2))
    table = of_router(sums.coefficients([2]).table(), [1], 3, 2)
    np.testing.assert_allclose(table[:, 1, 0], truth, atol=1e-5)
    assert not table[:, [0, 2]].any()
