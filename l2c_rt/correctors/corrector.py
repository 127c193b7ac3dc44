"""The interface of a corrector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions


class Corrector(Protocol):
    """Anything that says what stands for the branches that a schedule does not compute."""

    def predictions(self, schedule: CacheSchedule) -> Predictions:
        """The predicted values, of reused branches only; one that is not there is plain reuse.

        Raises ValueError where the corrector is of another run.
        """
        ...


def corrected(schedule: CacheSchedule, corrector: Any) -> CacheSchedule:
    """The schedule with a corrector's predictions.

    Raises TypeError for what is no corrector, ValueError for one of another run, or where the
    schedule has predictions already.
    """
    if not callable(getattr(corrector, "predictions", None)) or isinstance(corrector, type):
        raise TypeError(
            f"corrector: got {corrector!r:.80}, wanted an object with predictions(schedule), such "
            "as rt.correctors.Taylor(order=1)"
        )
    if schedule.predictions is not None:
        raise ValueError(
            f"corrector: the schedule has predictions already ({schedule.source or 'no source'}); "
            "leave corrector= away, or give a schedule without"
        )
    if schedule.tokens is not None:
        raise ValueError(
            f"corrector: the schedule has some tokens computed ({schedule.source or 'no source'}), "
            "which refreshes what is kept; leave corrector= away"
        )
    predictions = corrector.predictions(schedule)
    if not isinstance(predictions, Predictions):
        raise TypeError(
            f"corrector: {type(corrector).__name__}.predictions returned a "
            f"{type(predictions).__name__}, wanted Predictions"
        )
    name = type(corrector).__name__
    source = f"{schedule.source or 'a schedule'}, corrected by {name}"
    return replace(schedule, predictions=predictions, source=source[:1_000])
