"""Router: the learned scores of Learning-to-Cache, and the schedule that a threshold makes of them.

Source: arXiv 2406.01733. A score above the threshold computes; the paper's Algorithm 2 prints the
test the other way round, its tables and published files agree with this direction.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from l2c_rt.families import OWN_LOOP, RouterRules, rules_named
from l2c_rt.policies import router_files
from l2c_rt.policies.router_predictions import check_fitted, checked_coefficients, predictions_of
from l2c_rt.schedule.cache_schedule import CacheSchedule, default_branches
from l2c_rt.schedule.checks import (
    check_fingerprint,
    check_granularity,
    check_size,
    check_text,
    checked_branches,
    checked_timesteps,
)
from l2c_rt.schedule.predictions import Predictions
from l2c_rt.untrusted.bounded_read import naming, parse_json

MAX_TRAINING_LENGTH = 1 << 16


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Router:
    """Learned scores for the branches of each evaluation that may reuse.

    Shapes: logits [R, K] float32, kept as a read-only copy. `steps` is S, the evaluations of a run.
    DiT has R = S rows that count from the clean end; U-ViT has one row per solver step, S / 2 of
    them, from the noisy end; the family "own", for any model in a loop of the user's own, one per
    evaluation. `valid_rows` says which row is which evaluation's; all other rows are ignored and
    may hold anything. `training` is a JSON text on how the router was learned, `fingerprint` names
    the model that it was learned on; "" where that is not known. `timesteps` are those of its loop,
    `granularity` says whether its branches are parts of blocks, whole blocks, or shells of a U-Net.
    `coefficients` [R, K, H], where they were learned with the scores, are of the outputs at the
    last H evaluations without a row, newest first; their sum stands for a reused branch; of cond
    and uncond each they are [L, R, K, H].  `fitted` is what stands for it in `schedule()`, the cut
    that was learned for, where it was fitted again.
    """

    logits: npt.NDArray[np.float32]
    family: str
    steps: int
    branches: tuple[str, ...] = ()
    sampler: str = ""
    source: str = ""
    training: str = ""
    fingerprint: str = ""
    timesteps: tuple[float, ...] | None = None
    granularity: str = "branch"
    coefficients: npt.NDArray[np.float32] | None = None
    fitted: Predictions | None = None

    def __post_init__(self) -> None:
        family = rules_named(self.family)
        logits = _checked_logits(self.logits)
        columns = logits.shape[1]
        branches = checked_branches(self.branches or default_branches(columns), columns)
        for field in ("sampler", "source"):
            check_text(field, getattr(self, field))
        check_fingerprint(self.fingerprint)
        check_granularity(self.granularity)
        _check_training(self.training)
        object.__setattr__(self, "logits", logits)
        object.__setattr__(self, "branches", branches)
        coefficients = checked_coefficients(self.coefficients, *logits.shape)
        object.__setattr__(self, "coefficients", coefficients)
        check_fitted(self.fitted, self.steps, logits.shape[1])
        object.__setattr__(self, "sampler", self.sampler or family.sampler)
        _check_rows(family, self.steps, logits.shape[0])
        object.__setattr__(self, "timesteps", checked_timesteps(self.timesteps, self.steps))
        self._check_used_scores()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        family: str | None = None,
        steps: int | None = None,
        depth: int | None = None,
        branches: tuple[str, ...] | None = None,
    ) -> Router:
        """Read a published L2C file (.pt, .pth) or one that `save` wrote (.safetensors).

        The family is read off the file unless given; `steps`, `depth` (blocks) and `branches` are
        checked against it. Nothing in the file is executed, and sizes are bounded before reading.
        Raises: ValueError naming the file, what it holds and what was expected.
        """
        with naming(path):
            content = router_files.read(path)
            router = cls(**content if family is None else {**content, "family": family})
            router._check_run(steps, depth, branches)
        return router

    def save(self, path: str | Path) -> None:
        """Write the router as .safetensors with a header."""
        router_files.write(path, {field.name: getattr(self, field.name) for field in fields(self)})  # type: ignore[arg-type]

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """sigmoid(logits) [R, K], unused rows included."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(1.0 / (1.0 + np.exp(-self.logits.astype(np.float64))))

    def valid_rows(self) -> dict[int, int]:
        """{evaluation: row of logits} for the evaluations that may reuse, noisiest first."""
        return rules_named(self.family).valid_rows(self.steps)

    def schedule(self, threshold: float | None = None, reuse: float | None = None) -> CacheSchedule:
        """The schedule that computes the branches whose score is above the threshold.

        threshold None is the family's published one (DiT 0.1, U-ViT 0.9). `reuse` instead reuses
        round(reuse * cells) branches, cells being the branches of the evaluations that may reuse:
        those of lowest logit, ties by evaluation and then branch order.
        """
        if threshold is not None and reuse is not None:
            raise ValueError(f"give threshold ({threshold}) or reuse ({reuse}), not both")
        if reuse is not None:
            return self._schedule_at_share(reuse)
        threshold = rules_named(self.family).threshold if threshold is None else threshold
        rows = self.valid_rows()
        return self._schedule_of(self.scores[list(rows.values())] > threshold, threshold)

    def _schedule_at_share(self, reuse: float) -> CacheSchedule:
        if not 0 <= reuse <= 1:
            raise ValueError(f"reuse is {reuse}, wanted a share in 0..1 of the cached evaluations")
        rows = list(self.valid_rows().values())
        logits = self.logits[rows].ravel()
        order = np.argsort(logits, kind="stable")
        count = round(reuse * logits.size)
        compute = np.ones(logits.size, np.bool_)
        compute[order[:count]] = False
        scores = self.scores[rows].ravel()
        cut = float(scores[order[count - 1]]) if count else 0.0
        # Ties and saturated scores can make a cut that no threshold makes.
        threshold = cut if np.array_equal(scores > cut, compute) else None
        return self._schedule_of(compute.reshape(len(rows), len(self.branches)), threshold)

    def _schedule_of(self, cached: npt.NDArray[np.bool_], threshold: float | None) -> CacheSchedule:
        compute = np.ones((self.steps, len(self.branches)), np.bool_)
        compute[list(self.valid_rows())] = cached
        own_cut = self.scores[list(self.valid_rows().values())] > rules_named(self.family).threshold
        predictions = self.fitted
        if predictions is None or not np.array_equal(own_cut, cached):
            predictions = predictions_of(self.coefficients, self.valid_rows(), compute)
        return CacheSchedule(
            compute,
            self.branches,
            family="" if self.family == OWN_LOOP.name else self.family,
            sampler=self.sampler,
            calls_per_step=rules_named(self.family).calls_per_step,
            threshold=threshold,
            source=self.source,
            timesteps=self.timesteps,
            fingerprint=self.fingerprint,
            granularity=self.granularity,
            predictions=predictions,
        )

    def _check_run(
        self, steps: int | None, depth: int | None, branches: tuple[str, ...] | None
    ) -> None:
        got = {
            "steps": self.steps,
            "branches per row": len(self.branches),
            "branches": self.branches,
        }
        expected = {
            "steps": steps,
            "branches per row": None if depth is None else 2 * depth,
            "branches": None if branches is None else tuple(branches),
        }
        for name, value in expected.items():
            if value is not None and value != got[name]:
                raise ValueError(
                    f"this router's {name}: {got[name]!r:.60}, wanted {value!r:.60}; a router fits "
                    "the model, depth and number of steps that it was learned for"
                )

    def _check_used_scores(self) -> None:
        for evaluation, row in self.valid_rows().items():
            finite = np.isfinite(self.logits[row])
            if not finite.all():
                k = int(np.argmin(finite))
                raise ValueError(
                    f"router row {row} (evaluation {evaluation}), {self.branches[k]}: the score is "
                    f"{self.logits[row, k]}, wanted a finite number; the file is damaged or its "
                    "training diverged"
                )

    def __repr__(self) -> str:
        rows, columns = self.logits.shape
        size = f"{self.steps} steps, logits [{rows}, {columns}]"
        return f"<Router {self.family} {self.sampler}, {size}>"


def _checked_logits(logits: npt.ArrayLike) -> npt.NDArray[np.float32]:
    array = np.asarray(logits)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(
            f"router logits are {array.dtype} {array.shape}, wanted float32 [rows, branches]"
        )
    check_size(*array.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        own = np.array(array, dtype=np.float32, order="C")
    own.setflags(write=False)
    return own


def _check_training(training: str) -> None:
    check_text("training", training, MAX_TRAINING_LENGTH)
    try:
        parse_json((training or "null").encode("utf-8"))
    except ValueError as error:
        raise ValueError(f"training is not a JSON text: {error}") from None


def _check_rows(family: RouterRules, steps: int, rows: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise ValueError(f"router steps is {steps!r:.80}, wanted an int")
    check_size(steps, 1)
    stages = family.evaluations_per_solver_step
    if steps % stages:
        raise ValueError(
            f"a {family.display_name} router is for whole solver steps of {stages} evaluations, "
            f"not for {steps} steps"
        )
    # The published files hold a row per evaluation, whether or not the family reads so many.
    least = family.router_rows(steps)
    if not least <= rows <= steps:
        wanted = f"{steps}" if least == steps else f"{least}..{steps}"
        raise ValueError(
            f"a {family.display_name} router for {steps} steps has {wanted} rows, not {rows}"
        )
