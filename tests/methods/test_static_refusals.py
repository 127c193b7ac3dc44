"""What static methods refuse before any work, and the rules of their schedules."""

from __future__ import annotations

import numpy as np
import pytest
from method_goldens import as_rows

from l2c_rt.methods import FORA, PAB, PlainEveryN, SmoothCache, StepsMask
from l2c_rt.methods.smooth_cache import scanned
from l2c_rt.methods.steps_mask import steps_mask
from l2c_rt.schedule.cache_schedule import CacheSchedule

BRANCHES = ("attn-0", "mlp-0", "attn-1", "mlp-1")
TABLE = np.full((3, 9), 0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FORA(0), "FORA: cache_threshold is 0, wanted an int of at least 1"),
        (lambda: PlainEveryN(True), "PlainEveryN: interval is True"),
        (lambda: PAB(0), "PAB: spatial_attention_block_skip_range is 0"),
        (lambda: PAB(2, spatial_attention_timestep_skip_range=(800, 100)), "lower timestep first"),
        (lambda: PAB(2, cross_attention_timestep_skip_range=(1,)), r"wanted two timesteps"),
        (lambda: SmoothCache({}), "errors are a calibration"),
        (lambda: SmoothCache({"attn": TABLE}, -1), "threshold is -1, wanted a number of at least"),
        (lambda: SmoothCache({"attn": TABLE}, 0.1, 0), "lookback is 0"),
        (lambda: StepsMask("slowest"), "'slowest', wanted .*one of slow, medium, fast, ultra"),
        (lambda: StepsMask([0, 1]), "wanted 1, computed, first"),
        (lambda: StepsMask([1, 2]), "wanted zeros and ones"),
        (lambda: StepsMask("slow", -1), "Fn_compute_blocks is -1"),
        (lambda: steps_mask("slow", 7), "7 steps have no mask; wanted 4, 6, 8, 9 or more"),
    ],
)
def test_fields_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (SmoothCache({"attn": TABLE}, lookback=4), r"errors of 'attn' are \[3, 9\], wanted \[4 or"),
        (SmoothCache({"attn": TABLE[:, :8]}), r"\[3, 8\], wanted .* 9\] .*calibrate for this run"),
        (SmoothCache({"ff": TABLE}), "errors are of ff, the model has branches of the types attn"),
        (SmoothCache({"attn": -TABLE}), "wanted numbers of at least 0"),
        (PAB(2), "give compile those of the run: timesteps="),
        (StepsMask([1, 0, 1], 1), "the mask has 3 steps, the run 10"),
        (StepsMask("slow", 3, 1), "4, and the model has 4 blocks, so none is left"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_fit_the_run_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        method.schedule(10, BRANCHES)


def test_pab_refuses_a_kind_that_the_model_has_not():
    with pytest.raises(ValueError, match="no cross attention, but of the kinds spatial"):
        PAB(2, None, 6).schedule(2, BRANCHES, timesteps=(900, 500))


def test_pab_takes_its_windows_of_sigmas_too():
    times, sigmas = (950, 700, 400, 50), (0.95, 0.7, 0.4, 0.05)
    tables = [PAB(2).schedule(4, BRANCHES, timesteps=t).compute for t in (times, sigmas)]
    assert as_rows(tables[0]) == as_rows(tables[1])
    assert as_rows(tables[0][:, 0]) == [1, 0, 1, 1]


def test_pab_reuses_temporal_attention_by_its_path():
    names = ("transformer_blocks.0.attn1", "temporal_transformer_blocks.0.attn1", "blocks.0.ff")
    schedule = PAB(2, 4).schedule(5, names, timesteps=(700, 600, 500, 400, 300))
    assert as_rows(schedule.compute.T) == [[1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1] * 5]


def test_the_scan_takes_the_longest_lookback_that_is_within_the_threshold():
    average = np.full((3, 9), np.nan)
    average[0] = 0.1
    average[1, 2] = 0.18  # equal to the threshold counts
    average[2, 4] = 0.1
    assert as_rows(scanned(average, 0.18)) == [1, 0, 1, 0, 0, 1, 0, 1, 0, 1]


def test_the_last_evaluation_is_computed_and_json_goes_both_ways():
    schedule = SmoothCache({"attn": TABLE}, 0.18).schedule(10, BRANCHES)
    assert as_rows(schedule.compute[:, 0]) == [1, 0, 0, 0, 1, 0, 0, 0, 1, 1]
    assert schedule.compute[:, 1].all()
    assert CacheSchedule.from_smoothcache(schedule.to_smoothcache()) == schedule


def test_fora_counts_down_and_plain_every_n_up():
    full = [n for n, row in enumerate(FORA(3).schedule(50, BRANCHES).compute) if row.all()]
    assert full == [0, *range(1, 50, 3)]
    rows = PlainEveryN(3).schedule(50, BRANCHES).compute
    assert [n for n, row in enumerate(rows) if row.all()] == [*range(0, 50, 3)]


def test_a_mask_for_other_steps_is_cut_as_the_published_ones_are():
    """11, 13 and 14 lie between published masks; 5 and 7 are refused by the program too."""
    assert "".join(str(int(m)) for m in steps_mask("fast", 13)) == "1110100100101"
    for steps in range(8, 120):
        for name in ("slow", "medium", "fast", "ultra"):
            mask = steps_mask(name, steps)
            assert (len(mask), mask[0], mask[-1]) == (steps, True, True)
