"""Runs that a fit looks at: those of the compiled model; what predictions missed is owed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from published_outputs import relative
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.policies.static import EveryN
from l2c_rt.regression.cached_walk import CachedWalk, FixedPredictor
from l2c_rt.regression.calibration_runs import CalibrationRuns, described
from l2c_rt.regression.judgement import judged, log_error
from l2c_rt.runtime.loop_model import Place
from l2c_rt.schedule.predictions import Predictions

STEPS = 8
BRANCHES = tuple(f"{part}-{block}" for block in range(3) for part in ("attn", "mlp"))


def schedule_of(*numbers: float, lanes: int = 1) -> rt.CacheSchedule:
    """Reused branches are sums of the last values that were used, with these coefficients."""
    schedule = EveryN(4).schedule(STEPS, BRANCHES)
    terms = {
        (s, k): [(s - 1 - j, c) for j, c in enumerate(numbers[:s])]
        for s in range(STEPS)
        for k in range(6)
        if not schedule.compute[s, k]
    }
    predictions = Predictions.from_terms(STEPS, 6, terms) if numbers else None
    if lanes > 1:
        assert predictions is not None
        scaled = [predictions.coefficients[0] * (1 - 0.2 * lane) for lane in range(lanes)]
        predictions = Predictions(predictions.sources, np.stack(scaled))
    return rt.CacheSchedule(schedule.compute, schedule.branches, predictions=predictions)


def runs() -> CalibrationRuns:
    bound_model = described("fit_corrector", toy_dit(), None, None, "branch")
    return CalibrationRuns(bound_model, None, STEPS, 1, 0, 2, None)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("numbers", [(), (1.6, -0.6), (1.0, 0.5, -0.5)])
def test_a_walk_ends_as_the_compiled_model_does(numbers, lanes):
    schedule, calibration = schedule_of(*numbers, lanes=lanes if numbers else 1), runs()
    walk = CachedWalk(calibration.bound_model, FixedPredictor(schedule))
    _, ends = calibration.run(3, walk, lambda *_: None)
    loop = calibration.bound_model.sampling
    noise = torch.randn(
        (2, loop.channels, loop.size, loop.size), generator=torch.Generator().manual_seed(3)
    )
    labels = [k % loop.classes for k in (6, 7)]
    sampled = rt.compile(toy_dit(), schedule).sample(noise, labels)
    assert relative(torch.stack(ends), sampled) < 1e-5


class Seeing(FixedPredictor):
    """Keeps what it is shown of one branch, of the first lane, and of all lanes by lane."""

    def __init__(self, schedule: rt.CacheSchedule, carry: float, lanes: int = 1) -> None:
        super().__init__(schedule)
        self.carry, self.seen, self.before, self.of_lanes = carry, {}, {}, {}
        self.lanes = lanes

    def see(self, cell, lane, before, value):
        if cell[1] == 0:
            self.of_lanes[cell[0], lane] = value[0].clone()
        if cell[1] == 0 and lane == 0:
            self.seen[cell[0]], self.before[cell[0]] = value[0].clone(), before[0][0].clone()
        return super().see(cell, lane, before, value)


@pytest.mark.parametrize("carry", [1.0, 0.5])
def test_what_predictions_missed_is_owed_by_the_next_across_computed_evaluations(carry):
    calibration, shown = runs(), []
    for share in (0.0, carry):
        predictor = Seeing(schedule_of(), share)
        calibration.run(0, CachedWalk(calibration.bound_model, predictor), lambda *_: None)
        shown.append(predictor)
    alone, owing = shown
    owed = torch.zeros(())
    assert not alone.compute[1:, 0].all()
    assert alone.compute[2:, 0].any()
    for evaluation in alone.seen:
        value = alone.seen[evaluation] + carry * owed
        torch.testing.assert_close(owing.seen[evaluation], value)
        owed = value - alone.before[evaluation]
    assert owed.abs().max() > 1e-4


def test_lanes_are_the_halves_of_a_guided_batch_and_one_without_guidance():
    calibration, shown = runs(), []
    for lanes, scale in ((1, 1.5), (2, 1.5), (2, 1.0)):
        predictor = Seeing(schedule_of(), 0.0, lanes)
        guided = replace(calibration, cfg_scale=scale)
        guided.run(0, CachedWalk(calibration.bound_model, predictor), lambda *_: None)
        shown.append(predictor.of_lanes)
    whole, halves, unguided = shown
    assert {lane for _, lane in halves} == {0, 1}
    assert {lane for _, lane in unguided} == {0}
    for cell, value in whole.items():
        parts = [halves[cell[0], lane] for lane in range(2)]
        assert torch.equal(torch.cat(parts), value)
        assert not torch.equal(*parts)
        assert len(unguided[cell]) == len(parts[0])


def test_the_calls_of_a_step_are_lanes():
    """By the number of the call, whatever its batch is."""
    bound_model = runs().bound_model
    predictor = Seeing(schedule_of(), 0.0, lanes=2)
    walk = CachedWalk(bound_model, predictor, calls_per_step=2)
    walk.begin_run()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in range(STEPS):
        for lane in range(2):
            inputs = (x + lane + step, torch.full((2,), 900.0 - step), torch.tensor([1, 2]))
            walk.call(Place(lane, step), inputs, {})
    assert {lane for _, lane in predictor.of_lanes} == {0, 1}
    assert all(len(value) == 2 for value in predictor.of_lanes.values())


def test_predictions_that_end_farther_than_plain_reuse_are_not_taken():
    plain = Predictions.from_terms(STEPS, 6, {})
    chosen = judged(runs(), [schedule_of(-3.0, 0.0), schedule_of(1.0)], [0], lambda *_: None)
    assert chosen.predictions in (schedule_of(1.0).predictions, plain)


class Ends:
    """In the place of runs: ends that are off by so much from the full run's, run by run."""

    bound_model, calls_per_step = None, 1

    def __init__(self, off: list[list[float]]) -> None:
        pairs = [(run, number) for run, numbers in enumerate(off) for number in (0.0, *numbers)]
        self._pairs = iter(pairs)

    def run(self, number: int, *_: object) -> tuple[None, list[torch.Tensor]]:
        run, off = next(self._pairs)
        assert run == number
        return None, [torch.ones(1, 2) + run + off]


def test_a_fit_is_taken_by_the_mean_of_held_out_runs():
    fits = [schedule_of(1.0), schedule_of(2.0, -1.0)]
    off = [[0.1, 0.2, 1.0, 1.0], [0.9, 0.2, 1.0, 1.0], [0.1, 0.2, 1.0, 1.0]]
    assert judged(Ends(off), fits, range(1), lambda *_: None) is fits[0]
    assert judged(Ends(off), fits, range(3), lambda *_: None) is fits[1]


def test_one_image_that_becomes_another_does_not_decide() -> None:
    full = [torch.ones(3, 2)]
    most_are_near = [torch.tensor([[1.01, 1.0], [1.0, 1.01], [-9.0, 9.0]])]
    all_are_off = [torch.full((3, 2), 1.3)]
    assert log_error(most_are_near, full) < log_error(all_are_off, full)
    assert log_error(full, full) < log_error(most_are_near, full)
