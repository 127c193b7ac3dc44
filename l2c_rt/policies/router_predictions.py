"""What a router's learned coefficients say of the branches that a schedule reuses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule.predictions import MAX_LANES, MAX_TERMS, Predictions

Coefficients = npt.NDArray[np.float32]


def checked_coefficients(
    coefficients: npt.ArrayLike | None, rows: int, branches: int
) -> Coefficients | None:
    """A read-only copy [rows, branches, history], or one for each lane.

    Raises ValueError for another shape or numbers that are not finite.
    """
    if coefficients is None:
        return None
    own = np.array(coefficients, dtype=np.float32, order="C")
    lanes = own.shape[0] if own.ndim == 4 else 2
    if own.shape[-3:-1] != (rows, branches) or own.ndim > 4 or not 2 <= lanes <= MAX_LANES:
        raise ValueError(
            f"router coefficients are {own.shape}, wanted [{rows}, {branches}, history], or that "
            f"for each of 2..{MAX_LANES} lanes"
        )
    if not 1 <= own.shape[-1] <= MAX_TERMS:
        raise ValueError(f"router coefficients are {own.shape}, wanted 1..{MAX_TERMS} at the end")
    if not np.isfinite(own).all():
        raise ValueError("router coefficients hold numbers that are not finite")
    own.setflags(write=False)
    return own


def check_fitted(fitted: Predictions | None, steps: int, branches: int) -> None:
    """Raise ValueError for predictions of another run, or with tensors, which no file holds."""
    if fitted is None:
        return
    if fitted.sources.shape[:2] != (steps, branches):
        raise ValueError(
            f"router fitted: predictions are of {fitted.sources.shape[:2]} cells, wanted "
            f"{steps} evaluations of {branches} branches"
        )
    if fitted.scale or fitted.shift or fitted.rounding:
        raise ValueError("router fitted: predictions with tensors or rounding are not fitted ones")


def predictions_of(
    coefficients: Coefficients | None, rows: Mapping[int, int], compute: npt.NDArray[np.bool_]
) -> Predictions | None:
    """Of every reused branch, over the last evaluations that no row is for: they compute all.

    Shapes: coefficients [R, K, H] or [L, R, K, H], newest first, compute [S, K]; `rows` is
    {evaluation: row}.
    """
    if coefficients is None:
        return None
    of_lanes = coefficients if coefficients.ndim == 4 else coefficients[None]
    sources = np.full((*compute.shape, coefficients.shape[-1]), -1, np.int16)
    numbers = np.zeros((len(of_lanes), *sources.shape))
    for s, k in np.argwhere(~compute).tolist():
        before = [e for e in range(s - 1, -1, -1) if e not in rows][: sources.shape[2]]
        sources[s, k, : len(before)] = before
        numbers[:, s, k] = of_lanes[:, rows[s], k]
    width = int((sources >= 0).sum(axis=2).max())
    # Learning runs cond before uncond.
    unconditional = 1 if len(of_lanes) == 2 else None
    return Predictions(sources[..., :width], numbers[..., :width], unconditional=unconditional)
