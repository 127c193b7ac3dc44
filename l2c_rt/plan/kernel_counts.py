"""How many kernels a launch is, for `cost` and for what a graph holds."""

from __future__ import annotations

from collections.abc import Mapping

from l2c_rt.plan.lowering import Call, Composed, Launch, Run, RunTokens, Score, SkipLinear
from l2c_rt.plan.program import Node

CHOICE_KERNELS = 4
"""Of a branch on some tokens: the choice, the gathered rows, their norm, and scattering."""

SCORE_KERNELS = {"attention": 3, "kv-norm": 2}
"""By kind of score: two passes over the softmax map or one over the values, and unit vectors."""


def composed_kernels(products: int) -> int:
    """Of a sum of products: the first two are one, as in a long skip."""
    return max(1, products - 1)


def launch_kernels(launch: Launch, nodes: Mapping[str, Node]) -> int:
    """Kernels of one launch; the library's splitting of products not counted."""
    if isinstance(launch, RunTokens):
        return nodes[launch.branch].kernels + CHOICE_KERNELS
    if isinstance(launch, Score):
        return SCORE_KERNELS[launch.score]
    if isinstance(launch, Run):
        return nodes[launch.branch].kernels
    if isinstance(launch, Composed):
        return composed_kernels(len(launch.sources))
    return nodes[launch.node].kernels if isinstance(launch, Call | SkipLinear) else 1
