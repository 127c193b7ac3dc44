"""SpeCa: branches are predicted until a check on the last block says that they are off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from l2c_rt.correctors.differences import finite_differences, weighted
from l2c_rt.correctors.taylor import check_order
from l2c_rt.methods.checks import check_int, check_number
from l2c_rt.methods.deciding import Deciding
from l2c_rt.plan.decisions import NAN, At, Cut, Decided, Look, Measure, ModelFacts
from l2c_rt.plan.dynamic import Rows

FULL, PREDICTED, CHECKED = 0, 1, 2
FIRST_STEPS = 3
"""Evaluations that are computed, but for one after a computed one."""

LEAST_THRESHOLD = 0.01

MEASURES: Mapping[str, Measure] = {
    "relative_l1": "elementwise L1",
    "relative_l2": "elementwise L2",
    "l1": "absolute L1",
    "l2": "absolute L2",
    "cosine_similarity": "cosine",
    "all": "elementwise L1",
}


class Draft(NamedTuple):
    """Evaluations predicted since the last computed one, and the error of the last check (NaN for
    none)."""

    predicted: int = 0
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class SpeCa(Deciding):
    """Predicts every branch by TaylorSeer's differences of up to `max_order`; once
    `min_taylor_steps` in a row were predicted, the last block is also run on its predicted input,
    and its output compared with the predicted one.

    An evaluation after a computed one is predicted; of the others those are computed that are among
    the first three, that follow `max_taylor_steps` predicted ones, and that follow a check with an
    error above max(0.01, base_threshold * decay_rate^((n + 1) / steps)).  What was checked stays as
    it is: the error decides about the next evaluation.
    `error_metric`: "relative_l1" is the mean of |p - c| / (|c| + 1e-10), element by element, of the
    batch, "relative_l2" the root of the mean of its square, "l1" and "l2" are the same of |p - c|,
    "cosine_similarity" is 1 - the mean over samples of their cosine; "all", which prints every one
    there, decides by "relative_l1".
    Kept: max_order + 1 outputs of each branch.  Needs: nothing.
    Source: arXiv 2509.11628; github Shenyi-Z/Cache4Diffusion, speca-dit, sample.py; its
    sample_ddp.py has 0.3, 0.05, 3 and 8.
    """

    max_order: int = 4
    base_threshold: float = 0.1
    decay_rate: float = 0.01
    min_taylor_steps: int = 2
    max_taylor_steps: int = 5
    error_metric: Literal[
        "relative_l1", "relative_l2", "l1", "l2", "cosine_similarity", "all"
    ] = "relative_l1"  # fmt: skip

    granularity = "branch"

    def __post_init__(self) -> None:
        check_order("SpeCa: max_order", self.max_order)
        check_number("SpeCa: base_threshold", self.base_threshold, 0)
        check_number("SpeCa: decay_rate", self.decay_rate, 0, 1)
        check_int("SpeCa: min_taylor_steps", self.min_taylor_steps, 1)
        check_int("SpeCa: max_taylor_steps", self.max_taylor_steps, 1)
        if self.error_metric not in MEASURES:
            raise ValueError(
                f"SpeCa: error_metric is {self.error_metric!r:.40}, wanted one of "
                f"{', '.join(MEASURES)}"
            )

    def cut(self, facts: ModelFacts) -> Cut:
        return Cut(Look("checked", facts.blocks[-1], measure=MEASURES[self.error_metric]))

    def rows(self, branches: tuple[str, ...]) -> Rows:
        rows = np.zeros((3, len(branches)), np.bool_)
        rows[FULL] = True
        return rows

    @property
    def history(self) -> int:
        return 1 + self.max_order

    def prediction(self, computed: tuple[int, ...], at: At) -> Mapping[int, float]:
        differences = finite_differences(computed[-self.history :], self.max_order)
        distance = at.step - computed[-1]
        weights = [distance**i / math.factorial(i) for i in range(len(differences))]
        return weighted(differences, weights)

    def threshold(self, at: At) -> float:
        """The error above which an evaluation is computed."""
        decayed: float = self.base_threshold * self.decay_rate ** ((at.step + 1) / at.steps)
        return max(LEAST_THRESHOLD, decayed)

    def begin(self) -> Draft:
        return Draft()

    def forced(self, state: Draft, at: At) -> Decided:
        if state.predicted == 0:
            return Decided(PREDICTED)
        checks = state.predicted >= self.min_taylor_steps
        # An error that is not a number is above no threshold.
        if (
            at.step < FIRST_STEPS
            or state.predicted >= self.max_taylor_steps
            or (checks and state.error > self.threshold(at))
        ):
            return Decided(FULL)
        return Decided(CHECKED if checks else PREDICTED)

    def choose(self, state: Draft, at: At, metric: float) -> int:
        return FULL

    def after(self, state: Draft, at: At, done: Decided) -> Draft:
        if done.row == FULL:
            return Draft(0, state.error)
        if state.predicted == 0:
            return Draft(1, NAN)
        return Draft(state.predicted + 1, done.metric if done.row == CHECKED else state.error)
