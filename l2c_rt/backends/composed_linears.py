"""What neighbouring long skips do to a delta, as one sum of products.

Each is linear: W1 of the delta as it is, W2 of what was kept for it.  So all of them together are a
product for each *distinct* delta that they read.  Composed in a wider dtype, to be rounded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from l2c_rt.plan.delta_ops import LinearParts


class Weight(NamedTuple):
    """The weight that one delta is multiplied by, through the long skips `nodes`.

    It is the delta as it is before the first of them (`here`), or what was kept for the first, or
    both, where these are equal; `skips[j]`: also what was kept for `nodes[j]`.
    """

    here: bool
    nodes: tuple[str, ...]
    skips: tuple[bool, ...]


def products(op: LinearParts) -> tuple[Weight, ...]:
    """The weight of each of `op.deltas`."""
    summed = []
    for i, delta in enumerate(op.deltas):
        first = op.skips.index(delta) if i else 0
        takes = tuple(skip == delta for skip in op.skips[first:])
        summed.append(Weight(i == 0, op.nodes[first:], takes))
    return tuple(summed)


def own_half(weight: Weight, linears: Mapping[str, nn.Linear]) -> Tensor | None:
    """A view of the model's own weight, where that is all: one delta through one long skip.

    Shapes: [D, D], the rows 2 D apart.
    """
    if len(weight.nodes) > 1 or weight.here == weight.skips[0]:
        return None
    return _half(linears[weight.nodes[0]], first=weight.here)


class Product(Protocol):
    """`passed @ before + taken` of a weight, in the dtype of `before`; nothing taken where None."""

    def __call__(
        self, weight: Weight, passed: Tensor, before: Tensor, taken: Tensor | None
    ) -> Tensor: ...


def plain_product(weight: Weight, passed: Tensor, before: Tensor, taken: Tensor | None) -> Tensor:
    """By PyTorch's own product.  Shapes: all [D, D]."""
    product = passed.to(before.dtype) @ before
    return product if taken is None else product + taken


def compose(
    weights: Iterable[Weight],
    linears: Mapping[str, nn.Linear],
    dtype: torch.dtype = torch.float64,
    product: Product = plain_product,
) -> Iterator[tuple[Weight, Tensor]]:
    """Each of the weights once, [D, D] in `dtype`, as the linears are now.

    What several have in common is computed once, and kept no longer than it is needed.
    """
    wanted = frozenset(weights)
    beginnings = {_beginning(w, length) for w in wanted for length in range(1, len(w.nodes) + 1)}
    needed = Counter(_beginning(w, len(w.nodes) - 1) for w in beginnings)
    made: dict[Weight, Tensor] = {}
    # Sorted, a weight comes right behind what it begins with.
    for weight in sorted(beginnings):
        before = _beginning(weight, len(weight.nodes) - 1)
        linear = linears[weight.nodes[-1]]
        taken = _half(linear, first=False) if weight.skips[-1] else None
        if before.nodes:
            matrix = product(weight, _half(linear, first=True), made[before], taken)
        else:
            matrix = _first(linear, weight, dtype)
        needed[before] -= 1
        if not needed[before]:
            made.pop(before, None)
        if weight in wanted:
            yield weight, matrix
        if needed[weight]:
            made[weight] = matrix


def _beginning(weight: Weight, length: int) -> Weight:
    return Weight(weight.here, weight.nodes[:length], weight.skips[:length])


def _first(linear: nn.Linear, weight: Weight, dtype: torch.dtype) -> Tensor:
    """Of one long skip, with nothing before it."""
    passed, taken = (_half(linear, first=first).to(dtype) for first in (True, False))
    if not weight.here:
        return taken
    return passed + taken if weight.skips[0] else passed


def _half(linear: nn.Linear, *, first: bool) -> Tensor:
    """The columns of a long skip's weight that the stream meets, or those that the skip meets."""
    width = linear.in_features // 2
    weight = linear.weight.detach()
    return weight[:, :width] if first else weight[:, width:]
