"""Whether a model and its loop can run a schedule that leaves out half of a batch, or one whose
predictions tell the halves apart."""

from __future__ import annotations

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.runtime.sample_lanes import check_lanes
from l2c_rt.schedule.cache_schedule import CacheSchedule

SEPARATE_CALLS = (
    "half of a batch is left out, but cond and uncond are separate calls here; use a method that "
    "does not halve the batch, such as PAB or FORA, or pass both in one batch"
)


def check_calls(schedule: CacheSchedule, calls_per_step: int) -> None:
    """Raise ValueError where cond and uncond are not in one batch, or the calls of a step are not
    the lanes of the predictions."""
    if schedule.predictions is not None:
        check_lanes(schedule.predictions.lanes, calls_per_step)
    if schedule.halves is not None and calls_per_step != 1:
        raise ValueError(f"calls_per_step={calls_per_step}: {SEPARATE_CALLS}")


def with_halves(model: BoundModel, schedule: CacheSchedule) -> BoundModel:
    """The model as a schedule with halves runs it: by its own forward."""
    if schedule.halves is None or model.open_stage is not None:
        return model
    return own_instead(model, "half of a batch is left out at some evaluations")
