"""Neighbouring long skips on a CPU as one sum of products, with weights that are made once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from l2c_rt.backends.backend import WeightCopies
from l2c_rt.backends.composed_linears import Weight, compose, own_half, products
from l2c_rt.backends.cpu.products import Products
from l2c_rt.backends.cpu.weights import LinearWeight, sum_of_bits
from l2c_rt.backends.tuning.chooser import Chooser
from l2c_rt.plan.delta_ops import LinearParts
from l2c_rt.plan.ops import Plan


class ComposedSkips:
    """The products of the plan's `LinearParts`, equal weights shared; one for all runs of a model.

    Weights are composed at the first product, and anew where the model's were replaced or written
    to; a write through `.data` is noticed by `begin_run`.  As copies of weights it stands for
    `others` too, those of all other products.
    """

    def __init__(
        self, linears: Mapping[str, nn.Linear], others: WeightCopies, chooser: Chooser
    ) -> None:
        self._linears, self._others, self._chooser = linears, others, chooser
        self._lock = threading.Lock()
        self._planned: set[LinearParts] = set()
        self._composed: _Composed | None = None

    def plan(self, plan: Plan) -> None:
        """Have the weights of a plan composed together with those of the plans so far."""
        ops = {op for step in plan.steps for op in step if isinstance(op, LinearParts)}
        if not ops <= self._planned:
            self._planned |= ops
            self._composed = None

    def __call__(self, op: LinearParts, x: Tensor, skips: Sequence[Tensor]) -> Iterator[Tensor]:
        """The products, whose sum is the delta after the op.

        Shapes: x, the delta here, and `skips`, what was kept for each of the op's nodes, [B, T, D].
        """
        weights = self._current()
        for i, (delta, weight) in enumerate(zip(op.deltas, products(op), strict=True)):
            source = skips[op.skips.index(delta)] if i and delta is not None else x
            yield weights.products(source, weights.modules[weight])

    @property
    def nbytes(self) -> int:
        """Memory of the composed weights, and of all other copies."""
        own = 0 if self._composed is None else self._composed.nbytes
        return own + self._others.nbytes

    def begin_run(self) -> None:
        """Forget the copies of weights that were written to through `.data` since."""
        self._others.begin_run()
        composed = self._composed
        if composed is not None and not composed.bits_are_the_same():
            self._composed = None

    def drop(self) -> None:
        """Give the copies back; the next products make new ones."""
        self._others.drop()
        self._composed = None

    def _current(self) -> _Composed:
        composed = self._composed
        if composed is None or not composed.is_current():
            # Two sessions at once would each compose them.
            with self._lock:
                composed = self._composed
                if composed is None or not composed.is_current():
                    weights = {weight for op in self._planned for weight in products(op)}
                    made = _Composed(weights, self._linears, Products(self._chooser))
                    composed = self._composed = made
        return composed


class _Composed:
    """Weights as modules without bias, made from linears as they were then."""

    def __init__(
        self, weights: set[Weight], linears: Mapping[str, nn.Linear], products: Products
    ) -> None:
        nodes = {node for weight in weights for node in weight.nodes}
        self._sources = [(linears[node], LinearWeight(linears[node])) for node in nodes]
        self._bits = self._sums()
        self.products = products
        self.modules: dict[Weight, nn.Linear] = {}
        self._own_bytes = 0
        for weight in weights:
            if (half := own_half(weight, linears)) is not None:
                self.modules[weight] = _without_bias(half)
        for weight, matrix in compose(weights - self.modules.keys(), linears):
            rounded = matrix.to(linears[weight.nodes[0]].weight.dtype)
            self.modules[weight] = _without_bias(rounded)
            self._own_bytes += rounded.nbytes

    @property
    def nbytes(self) -> int:
        return self._own_bytes + self.products.nbytes

    def is_current(self) -> bool:
        """Whether the linears have the very weights they had, and nothing was written to them."""
        return all(source.is_of(linear) for linear, source in self._sources)

    def bits_are_the_same(self) -> bool:
        return self._bits == self._sums()

    def _sums(self) -> list[int]:
        return [sum_of_bits(source.source) for _, source in self._sources]


def _without_bias(weight: Tensor) -> nn.Linear:
    # On "meta" no random numbers are drawn for it.
    module = nn.Linear(1, 1, bias=False, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module
