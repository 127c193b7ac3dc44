"""What stands for a branch that is not computed, where that is more than its latest output.

The value of a branch at an evaluation is what it adds there, before its gate: its output, or
`(sum of coefficient * earlier value) * (1 + scale) + shift`.  Every published predictor is such a
table: TaylorSeer, HiCache, GOC, EOC, scale-shift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAX_TERMS = 64
"""Terms of one sum; more than any published method has, few enough that no file is too large."""

MAX_LANES = 8
"""Lanes with coefficients of their own: two under guidance."""

ROUNDINGS = ("bfloat16", "float16")
"""Types to which differences can be rounded."""


class Term(NamedTuple):
    """`coefficient` times the value of the branch at `evaluation`."""

    evaluation: int
    coefficient: float


Terms = Mapping[tuple[int, int], Sequence[tuple[int, float]]]
"""(evaluation, branch) -> (earlier evaluation, coefficient) of each term."""

Operands = Mapping[tuple[int, int], npt.NDArray[np.float32]]
"""(evaluation, branch) -> an array that broadcasts to a branch's output [T, D]."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The predicted values of a schedule of S evaluations and K branches.

    Shapes: sources int16 [S, K, M], the evaluations whose values are summed, -1 where there is no
    term; coefficients float64 [L, S, K, M], or [S, K, M] for one lane.  A cell without terms is not
    predicted: a branch that is reused there keeps its latest value.  `scale` and `shift` are for
    cells that have terms.
    Lanes are the calls of a step, or where it has one call the halves of a guided batch, in their
    order.  `unconditional` is the lane of the samples without a condition, None where that is not
    known; a batch without guidance is in the other one, or the first.
    With `rounding` a cell's terms are computed outputs, oldest first, and its value the Taylor
    series of their finite differences, each rounded to that type as soon as it is made;
    coefficients are what they are without, or all 0 for zeros.
    Raises ValueError for a term that is not earlier than its cell, or is not finite.
    """

    sources: npt.NDArray[np.int16]
    coefficients: npt.NDArray[np.float64]
    scale: Operands = field(default_factory=dict)
    shift: Operands = field(default_factory=dict)
    rounding: str | None = None
    unconditional: int | None = None

    def __post_init__(self) -> None:
        sources, coefficients = np.asarray(self.sources), np.asarray(self.coefficients)
        if coefficients.ndim == 3:
            coefficients = coefficients[None]
        lanes = len(coefficients) if coefficients.ndim else 0
        if sources.ndim != 3 or coefficients.shape != (lanes, *sources.shape):
            raise ValueError(
                f"predictions: sources {sources.shape} and coefficients {coefficients.shape}, "
                "wanted two tables [steps, branches, terms], the second one for every lane"
            )
        if not 1 <= lanes <= MAX_LANES:
            raise ValueError(f"predictions: {lanes} lanes, wanted 1..{MAX_LANES}")
        # Where there is no term there is no coefficient, and without any but one lane.
        coefficients = np.where(sources >= 0, coefficients, 0.0)
        coefficients = coefficients if (sources >= 0).any() else coefficients[:1]
        _check_lane(self.unconditional, lanes)
        if len(coefficients) == 1:
            object.__setattr__(self, "unconditional", None)
        if sources.shape[2] > MAX_TERMS:
            raise ValueError(f"predictions: {sources.shape[2]} terms, wanted at most {MAX_TERMS}")
        _check_terms(sources, coefficients)
        _check_rounding(self.rounding, sources)
        for name in ("scale", "shift"):
            _check_operands(name, getattr(self, name), sources)
        for name, table, dtype in (
            ("sources", sources, np.int16), ("coefficients", coefficients, np.float64)
        ):  # fmt: skip
            own = np.array(table, dtype=dtype)
            own.setflags(write=False)
            object.__setattr__(self, name, own)

    @classmethod
    def from_terms(
        cls, steps: int, num_branches: int, terms: Terms,
        *, scale: Operands | None = None, shift: Operands | None = None,
        rounding: str | None = None,
    ) -> Predictions:  # fmt: skip
        """Predictions of the cells that `terms` has; a cell with no terms is not predicted."""
        width = max((len(listed) for listed in terms.values()), default=0)
        sources = np.full((steps, num_branches, width), -1, np.int16)
        coefficients = np.zeros((steps, num_branches, width))
        for (s, k), listed in terms.items():
            for m, (evaluation, coefficient) in enumerate(listed):
                sources[s, k, m], coefficients[s, k, m] = evaluation, coefficient
        return cls(sources, coefficients, scale or {}, shift or {}, rounding)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Predictions):
            return NotImplemented
        return self.digest_bytes() == other.digest_bytes()

    def __hash__(self) -> int:
        return hash((self.sources.tobytes(), self.coefficients.tobytes()))

    def digest_bytes(self) -> bytes:
        """All that the predictions say, as bytes: equal where they say the same."""
        parts = [repr(self.sources.shape).encode(), (self.rounding or "").encode()]
        # The bytes of one lane are what they were before there were more.
        parts += [f"{self.lanes} lanes".encode()] * (self.lanes > 1)
        if self.unconditional is not None:
            parts.append(f"unconditional {self.unconditional}".encode())
        parts += [self.sources.astype("<i2").tobytes(), self.coefficients.astype("<f8").tobytes()]
        for operands in (self.scale, self.shift):
            for cell in sorted(operands):
                parts.append(repr((cell, operands[cell].shape)).encode())
                parts.append(operands[cell].astype("<f4").tobytes())
        return b"".join(parts)

    @property
    def lanes(self) -> int:
        """Lanes with coefficients of their own."""
        return len(self.coefficients)

    @property
    def stored(self) -> npt.NDArray[np.float64]:
        """The coefficients as files have them, [S, K, M] of one lane."""
        return self.coefficients if self.lanes > 1 else self.coefficients[0]

    def at(self, evaluation: int, branch: int, lane: int = 0) -> tuple[Term, ...]:
        """The terms of a cell in a lane, none where it is not predicted."""
        row = self.sources[evaluation, branch].tolist()
        numbers = self.coefficients[lane, evaluation, branch].tolist()
        return tuple(Term(q, c) for q, c in zip(row, numbers, strict=True) if q >= 0)

    def has_operand(self, evaluation: int, branch: int) -> bool:
        """Whether a scale or a shift belongs to a cell."""
        return (evaluation, branch) in self.scale or (evaluation, branch) in self.shift

    def column(self, branch: int) -> bytes:
        """Equal for branches whose values are predicted alike."""
        return self.sources[:, branch].tobytes() + self.coefficients[:, :, branch].tobytes()

    def of_branches(self, branches: Sequence[int]) -> Predictions:
        """The predictions of some of the branches, in the order given; one may be there twice."""
        chosen = list(branches)
        scale, shift = (
            {(s, i): array for (s, k), array in operands.items()
             for i, branch in enumerate(chosen) if branch == k}
            for operands in (self.scale, self.shift)
        )  # fmt: skip
        sources, coefficients = self.sources[:, chosen], self.coefficients[:, :, chosen]
        return Predictions(sources, coefficients, scale, shift, self.rounding, self.unconditional)


def check_cells(
    predictions: Predictions, compute: npt.NDArray[np.bool_], branches: Sequence[str]
) -> None:
    """ValueError where predictions are of another run, or of a branch that is computed."""
    if predictions.sources.shape[:2] != compute.shape:
        raise ValueError(
            f"predictions of {predictions.sources.shape[:2]} evaluations and branches, the "
            f"schedule has {compute.shape}"
        )
    both = (predictions.sources >= 0).any(axis=2) & compute
    if both.any():
        s, k = np.argwhere(both)[0]
        raise ValueError(f"evaluation {s} computes {branches[k]} and predicts it")


def _check_terms(sources: npt.NDArray[np.int16], coefficients: npt.NDArray[np.float64]) -> None:
    used = sources >= 0
    late = used & (sources >= np.arange(len(sources))[:, None, None])
    if late.any() or (sources < -1).any():
        s, k, m = np.argwhere(late | (sources < -1))[0]
        raise ValueError(
            f"predictions: evaluation {s} of branch {k} reads evaluation {sources[s, k, m]}, "
            f"wanted one of 0..{s - 1}"
        )
    bad = used & ~np.isfinite(coefficients)
    if bad.any():
        lane, s, k, m = np.argwhere(bad)[0]
        raise ValueError(
            f"predictions: a coefficient of evaluation {s}, branch {k} is "
            f"{coefficients[lane, s, k, m]}, wanted a finite number"
        )


def _check_lane(unconditional: int | None, lanes: int) -> None:
    if unconditional not in (None, *range(lanes)):
        raise ValueError(
            f"predictions: unconditional is {unconditional!r:.20}, wanted one of the {lanes} "
            "lanes, or None where it is not known"
        )


def _check_rounding(rounding: str | None, sources: npt.NDArray[np.int16]) -> None:
    if rounding not in (None, *ROUNDINGS):
        raise ValueError(
            f"predictions: rounding is {rounding!r:.40}, wanted None or one of "
            f"{', '.join(ROUNDINGS)}"
        )
    later = (sources[:, :, 1:] >= 0) & (sources[:, :, 1:] <= sources[:, :, :-1])
    if rounding is not None and later.any():
        s, k, _ = np.argwhere(later)[0]
        raise ValueError(
            f"predictions: differences at evaluation {s} of branch {k} are of evaluations "
            f"{sources[s, k].tolist()}, wanted each once, the oldest first"
        )


def _check_operands(name: str, operands: Operands, sources: npt.NDArray[np.int16]) -> None:
    steps, num_branches = sources.shape[:2]
    for (s, k), array in operands.items():
        if not (0 <= s < steps and 0 <= k < num_branches and (sources[s, k] >= 0).any()):
            raise ValueError(f"predictions: {name} for evaluation {s}, branch {k}, which has no "
                             "terms")  # fmt: skip
        if array.ndim > 2 or not np.isfinite(array).all():
            raise ValueError(
                f"predictions: {name} of evaluation {s}, branch {k} has shape {array.shape}, "
                "wanted finite numbers that broadcast to [tokens, width]"
            )
