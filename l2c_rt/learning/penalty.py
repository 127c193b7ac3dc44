"""The path of lambda, and the cut that gives exactly a wanted share of reuse.

Were the error quadratic in its score, a branch would be given up at one lambda: its price,
slope / (1 - score), per unit of its cost.  So the lambda at which a share q is reused is the
q-quantile of the prices.
Prices move as other branches are given up, and lambda with them: q goes from 0 to 1 over the run.
A branch's score is its mean over that path, so that scores rank the branches for every share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MEMORY = 0.7
"""How much of the prices seen before counts beside the newest."""

SMALLEST = 1e-12
EDGE = 0.02
MARGIN = 1e-3


@dataclass(slots=True)
class Prices:
    """Running means of the error's fall per unit of score and of 1 - score; rows met so far.

    `costs` weigh the branches in the penalty: 1 each as published, or in proportion to what they
    compute, 1 on average.
    Shapes: fall, rest [rows, K] float64; met [rows] bool; costs [K] float64.
    """

    fall: Tensor
    rest: Tensor
    met: Tensor
    costs: Tensor

    @staticmethod
    def unknown(rows: int, costs: Tensor) -> Prices:
        blank = torch.zeros(rows, len(costs), dtype=torch.float64)
        return Prices(blank, blank.clone(), torch.zeros(rows, dtype=torch.bool), costs)

    def see(self, rows: Tensor, fall: Tensor, scores: Tensor) -> None:
        """Take in what one iteration met.  Shapes: rows [rows] bool; fall, scores [rows, K]."""
        self.fall[rows] = MEMORY * self.fall[rows] + (1.0 - MEMORY) * fall[rows]
        self.rest[rows] = MEMORY * self.rest[rows] + (1.0 - MEMORY) * (1.0 - scores[rows])
        self.met |= rows

    def penalty(self, share: float) -> float:
        """The lambda at which this share of the branches met so far would be given up."""
        prices = (self.fall[self.met] / self.rest[self.met] / self.costs).flatten()
        inside = min(max(share, EDGE), 1.0 - EDGE)
        return max(float(prices.quantile(inside)), SMALLEST)


def shifted_to_share(
    logits: npt.NDArray[np.float32], reuse: float, threshold: float
) -> tuple[npt.NDArray[np.float32], float]:
    """The logits plus one constant, so that cutting at `threshold` reuses round(reuse * size).

    The order of the scores stays.  Scores that the cut would split although they are equal are
    moved to their side of it by a thousandth.  Returns the constant as well.
    """
    cut = math.log(threshold / (1.0 - threshold))
    flat = logits.ravel().astype(np.float64)
    order = np.argsort(flat, kind="stable")
    count = round(reuse * flat.size)
    below, above = order[:count], order[count:]
    if count == 0:
        middle = flat.min() - 1.0
    elif count == flat.size:
        middle = flat.max() + 1.0
    else:
        middle = (flat[below[-1]] + flat[above[0]]) / 2
    shift = cut - float(middle)
    moved = flat + shift
    moved[below] = np.minimum(moved[below], cut - MARGIN)
    moved[above] = np.maximum(moved[above], cut + MARGIN)
    return moved.reshape(logits.shape).astype(np.float32), shift


def nested(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logits [rows, K] of branches of which each lies inside the one before, falling in a row,
    so that every cut of the scores computes the outer branches of one that is computed."""
    falling = np.minimum.accumulate(logits, axis=1) - MARGIN * np.arange(logits.shape[1])
    return np.asarray(falling, np.float32)
