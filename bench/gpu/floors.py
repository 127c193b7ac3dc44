"""Lower bounds of a run at measured ceilings.  Arithmetic only.

What results are held against is what kernels that do not overlap can reach: the sum over kernels
of the slower of arithmetic and memory traffic.  `Cost.floor_seconds`, which the files hold too,
lets all kernels of a step overlap.
"""

from __future__ import annotations

from collections.abc import Iterator

import l2c_rt as rt
from l2c_rt.measure.ceilings import Ceilings
from l2c_rt.plan.program import BlockProgram, Branch, Fixed

Kernel = tuple[int, int, int]
"""Multiply-accumulates, weights, and elements moved, the first and last per row of the batch."""


def kernelwise_seconds(
    fast: rt.Compiled, rows: int, itemsize: int, ceilings: Ceilings
) -> list[float]:
    """The floor of every step of a compiled run, for `rows` of the model's call (two per image)."""
    program, compute = fast.bound_model.program, fast.schedule.compute.tolist()
    skip_linears = [n for n in program.nodes if isinstance(n, Fixed) and n.role == "skip_linear"]
    floors = []
    for cost, computes in zip(fast.cost.cached, compute, strict=True):
        branches = [b for b, wanted in zip(program.branches, computes, strict=True) if wanted]
        kernels = [kernel for branch in branches for kernel in branch_kernels(program, branch)]
        kernels += [(n.macs, n.weights, n.activations) for n in skip_linears]
        # What is left is read and written between the products: sums, norms, both ends.
        macs = cost.all_macs - sum(kernel[0] for kernel in kernels)
        weights = cost.weights - sum(kernel[1] for kernel in kernels)
        elements = cost.activations - sum(n.activations for n in (*branches, *skip_linears))
        kernels.append((macs, weights, elements))
        floors.append(sum(_seconds(kernel, rows, itemsize, ceilings) for kernel in kernels))
    return floors


def _seconds(kernel: Kernel, rows: int, itemsize: int, ceilings: Ceilings) -> float:
    macs, weights, elements = kernel
    moved = (weights + rows * elements) * itemsize
    return max(rows * macs / ceilings.macs_per_second, moved / ceilings.bytes_per_second)


def branch_kernels(program: BlockProgram, branch: Branch) -> Iterator[Kernel]:
    """The kernels of a branch: qkv, attention and projection, or fc1 and fc2."""
    t, d = program.tokens, program.width
    if branch.kind == "attn":
        yield 3 * t * d * d, 3 * d * d, 4 * t * d
        yield branch.attention_macs, 0, 4 * t * d
        yield t * d * d, d * d, 2 * t * d
        return
    hidden = branch.macs // (2 * t * d)
    for _ in range(2):
        yield t * d * hidden, d * hidden, t * (d + hidden)
