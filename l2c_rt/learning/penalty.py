"""Lambda for a wanted share of reuse, and the cut that gives exactly that share.

At a fixed point of L2C's objective, a branch is computed where computing it lowers the error by
more than lambda.  So lambda starts at the wanted quantile of those gains and is then steered: up
where too few scores are below one half, down where too many are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor

GAIN = 2.0
"""How fast lambda follows, relative to how fast scores can move (the learning rate)."""

SMALLEST = 1e-12
MARGIN = 1e-3


def first_penalty(gains: Tensor, reuse: float) -> float:
    """The quantile of the error's fall per unit of score.  Shapes: gains [rows, K]."""
    flat = gains.flatten().double()
    floor = 1e-3 * float(flat.abs().mean())
    return max(float(flat.quantile(reuse)), floor, SMALLEST)


def steered(lam: float, reused: float, wanted: float, rate: float) -> float:
    """Lambda after one step; `reused` is the share of scores below one half."""
    return max(SMALLEST, lam * math.exp(GAIN * rate * (wanted - reused)))


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
