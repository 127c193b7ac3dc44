"""What a branch gives, from what it gave before: small regressions, judged on held-out runs.

With u_1, u_2, ... the outputs before, newest first, the change v - u_1 is regressed on u_1 and
its backward differences.  Regularisation draws towards plain reuse, and as much of it is taken as
lowers the error of runs that the fit has not seen; none does where plain reuse is best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STRENGTHS = (1e-10, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0)
"""Of the regularisation, relative to the diagonal of the Gram matrix."""

UNJUDGED = 1e-4
"""The strength where there is one run alone."""


def differences(count: int) -> Array:
    """The backward differences of order 0 .. count - 1 of u_1, u_2, ..., one row each."""
    rows = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1):
            rows[i, j] = (-1) ** j * math.comb(i, j)
    return rows


def fitted(grams: Array) -> Array | None:
    """The coefficients of u_1, u_2, ..., or None where plain reuse is best.

    Shapes: grams [folds, m + 1, m + 1] of the values u_1 .. u_m as `differences` has them and of
    the change v - u_1, a fold a set of runs.
    """
    grams = grams[np.trace(grams, axis1=1, axis2=2) > 0]
    if not len(grams):
        return None
    total = grams.sum(axis=0)
    strength = UNJUDGED
    if len(grams) > 1:
        errors = held_out_errors(grams)
        best = int(np.argmin(errors))
        if errors[best] >= total[-1, -1]:
            return None
        strength = STRENGTHS[best]
    weights = _solve(total[None], (strength,))[0, 0]
    coefficients: Array = differences(len(weights)).T @ weights
    coefficients[0] += 1.0
    return coefficients if np.isfinite(coefficients).all() else None


def explained(gram: Array) -> float:
    """The share of the squared change v - u_1 that a fit to u_1, u_2, ... leaves."""
    if gram[-1, -1] <= 0:
        return 1.0
    weights = _solve(gram[None], (UNJUDGED,))[0, 0]
    signed = np.append(weights, -1.0)
    return float(min(1.0, signed @ gram @ signed / gram[-1, -1]))


def held_out_errors(grams: Array) -> Array:
    """The squared error of every strength, each fold by the fit of the others, summed."""
    weights = _solve(grams.sum(axis=0) - grams, STRENGTHS)
    signed = np.concatenate([weights, -np.ones((*weights.shape[:2], 1))], axis=2)
    errors: Array = np.einsum("sfi,fij,sfj->s", signed, grams, signed)
    return errors


def _solve(grams: Array, strengths: Sequence[float]) -> Array:
    """[strengths, folds, m] weights of the differences."""
    inner, right = grams[:, :-1, :-1], grams[:, :-1, -1]
    diagonal = np.einsum("fii->fi", inner)
    # A difference that is zero throughout has no weight, and divides nothing.
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = inner / (scale[:, :, None] * scale[:, None, :])
    identity = np.eye(inner.shape[1])
    ridge = np.multiply.outer(np.asarray(strengths), identity)[:, None]
    ridge = ridge + identity * (diagonal <= 0)[None, :, :, None]
    solution: Array = np.linalg.solve(scaled + ridge, (right / scale)[None, :, :, None])[..., 0]
    return solution / scale
