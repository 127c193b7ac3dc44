"""Which tiles are worth a compilation and a measurement: those that a model of waves allows."""

from __future__ import annotations

import math

from l2c_rt.backends.tuning.problems import LinearProblem
from l2c_rt.kernels._launch import MatrixTile, two_parts

MULTIPROCESSORS = 132
"""Of the GPU that the candidates were drawn up for; more or fewer only make them less apt."""
RATE, RAMP, PARTS = 5.98, 1.5, 6.0
"""Of that GPU, not measured here: TFLOP/s of a multiprocessor, microseconds from the launch of a
block to its first product and from its last to the end, TB/s for partial sums, which stay in L2."""
MARGIN = 1.5
"""A tile that the model takes to be slower than the best by more is not tried."""

Cut = tuple[MatrixTile, int]
"""A tile, and into how many parts the inner dimension is cut."""


def promising(problem: LinearProblem, cuts: list[Cut]) -> list[Cut]:
    """The cuts, in their order, but for those that the model takes to be much slower."""
    times = [rough_time(problem, *cut) for cut in cuts]
    return [cut for cut, time in zip(cuts, times, strict=True) if time <= MARGIN * min(times)]


def rough_time(problem: LinearProblem, tile: MatrixTile, splits: int) -> float:
    """Microseconds, roughly: what the busiest multiprocessor does, and the partial sums.

    A tile of less than 128 x 128 reads more of its operands for each product, in proportion to its
    sides.  Sixteen columns beside 128 take as long as 32 do, since x is read again for them.
    """
    waves = math.ceil(tile.count(problem.rows, problem.columns) * splits / MULTIPROCESSORS)
    columns, rest = two_parts(tile.n)
    rate = RATE * min(1.0, math.sqrt(tile.m * tile.n) / 128)
    products = 2 * tile.m * (columns + 2 * rest) * problem.inner / splits / (rate * 1e6)
    parts = 8 * splits * problem.rows * problem.columns / (PARTS * 1e6) if splits > 1 else 0.0
    return waves * (products + RAMP) + parts
