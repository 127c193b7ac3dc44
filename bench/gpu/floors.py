"""Lower bounds of a run at measured ceilings.  Arithmetic only.

Two of them: "run" is `Cost.floor_seconds`, the slower of all arithmetic and all memory traffic of
an evaluation; "kernelwise" is what kernels that do not overlap can reach, the sum of each kernel's
own bound, and is the one that results are held against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from l2c_rt.measure.ceilings import Ceilings
from l2c_rt.plan.cost import Cost, EvaluationCost
from l2c_rt.plan.program import BlockProgram, Branch, Fixed


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a model call (two per image with guidance) and bytes per element."""

    rows: int
    itemsize: int


def run_floor(cost: Cost, batch: Batch, ceilings: Ceilings) -> float:
    """Seconds of the cached run by `Cost.floor_seconds`."""
    return cost.floor_seconds(
        batch=batch.rows,
        itemsize=batch.itemsize,
        macs_per_second=ceilings.macs_per_second,
        bytes_per_second=ceilings.bytes_per_second,
    )


def kernelwise(
    program: BlockProgram,
    evaluations: Sequence[EvaluationCost],
    compute: Sequence[Sequence[bool]],
    batch: Batch,
    ceilings: Ceilings,
) -> list[float]:
    """Seconds of every evaluation, kernel by kernel.

    `evaluations` are `Cost.cached` with the schedule's `compute` [S, K], or `Cost.full` with ones.
    """
    skip_linears = [n for n in program.nodes if isinstance(n, Fixed) and n.role == "skip_linear"]
    return [
        _evaluation(program, skip_linears, e, row, batch, ceilings)
        for e, row in zip(evaluations, compute, strict=True)
    ]


def _evaluation(
    program: BlockProgram,
    skip_linears: list[Fixed],
    cost: EvaluationCost,
    row: Sequence[bool],
    batch: Batch,
    ceilings: Ceilings,
) -> float:
    computed = [b for b, wanted in zip(program.branches, row, strict=True) if wanted]
    alone = [kernel for branch in computed for kernel in branch_kernels(program, branch)]
    alone += [(n.macs, n.weights, n.activations) for n in skip_linears]
    # What is left is read and written between the products: sums, norms, both ends.
    macs = cost.all_macs - sum(kernel[0] for kernel in alone)
    weights = cost.weights - sum(kernel[1] for kernel in alone)
    elements = cost.activations - sum(n.activations for n in (*computed, *skip_linears))
    seconds = 0.0
    for m, w, e in (*alone, (macs, weights, elements)):
        moved = (w + batch.rows * e) * batch.itemsize
        arithmetic = batch.rows * m / ceilings.macs_per_second
        seconds += max(arithmetic, moved / ceilings.bytes_per_second)
    return seconds


def branch_kernels(program: BlockProgram, branch: Branch) -> Iterator[tuple[int, int, int]]:
    """MACs, weights and elements moved of each kernel of a branch, per row of the batch."""
    t, d = program.tokens, program.width
    if branch.kind == "attn":
        yield 3 * t * d * d, 3 * d * d, 4 * t * d
        yield branch.attention_macs, 0, 4 * t * d
        yield t * d * d, d * d, 2 * t * d
        return
    hidden = branch.macs // (2 * t * d)
    for _ in range(2):
        yield t * d * hidden, d * hidden, t * (d + hidden)
