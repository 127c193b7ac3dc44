"""A prediction along the modes of a run, whose coefficients no plan knows.  Pure."""

from __future__ import annotations

from typing import NamedTuple


class ModeFit(NamedTuple):
    """`values` are those of a branch that are as far apart as the next ones, the oldest first, by
    evaluation or by the slot of their ring; `horizon` is how many such distances after the last one
    the prediction is.  Singular values beyond `rank` are left out, or for 0 below 1e-4 of the
    greatest, and `ridge` is added to the others before they are divided by."""

    values: tuple[int, ...]
    horizon: float
    rank: int
    ridge: float
