"""What reusing a branch does to the model's output, at every evaluation and age, in full runs.

A change d of what branch k adds moves the output by J d.  For a random r, the square of (r J) d is
the squared length of J d on average; r J of all branches comes from one backward pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.site_passes import Call, SitePasses, less_bases, with_bases
from l2c_rt.calibration.recorder import streams_of
from l2c_rt.learning.rehearsal import check_modes
from l2c_rt.learning.state import tensors_of
from l2c_rt.regression.cached_walk import is_value
from l2c_rt.regression.grams import Parts, gram_of
from l2c_rt.regression.least_squares import Array, explained
from l2c_rt.runtime.loop_model import Place

PREDICTED_FROM = 3
"""Outputs that a prediction is made of where ages are compared."""


class Sensitivity:
    """Stands for the model in full runs and sums up errors [S, K, A] by age; with `predicts`, of
    what a fit to earlier outputs leaves."""

    def __init__(
        self, bound_model: BoundModel, steps: int, ages: int, seed: int, *, predicts: bool
    ) -> None:
        self._bound_model, self._ages, self._predicts = bound_model, ages, predicts
        branches = len(bound_model.program.branches)
        self.errors = np.full((steps, branches, ages), np.inf)
        self._passes: SitePasses | None = None
        self._place = Place(0, 0)
        self._before: dict[tuple[int, Call], deque[Parts]] = {}
        self._values: dict[Call, tuple[Parts, list[Tensor]]] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def begin_run(self) -> None:
        """A run begins: the attributes of the model's modules may be others."""
        self._before.clear()
        if self._passes is not None:
            self._passes.refresh()

    def call(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's own return value."""
        check_modes(args, kwargs)
        if self._passes is None:
            streams: Mapping[str, Any] = streams_of(self._bound_model, args, kwargs)
            self._passes = SitePasses(self._bound_model, streams, checkpointing=False)
        self._place = place
        self._values.clear()
        with torch.enable_grad():
            out = self._passes.run(self._at_site, args, kwargs)
            moved = [part for part in tensors_of(out) if part.requires_grad]
            total = torch.stack([(part * self._probe(part)).sum() for part in moved]).sum()
            leaves = [leaf for _, added in self._values.values() for leaf in added]
            slopes = iter(torch.autograd.grad(total, leaves, allow_unused=True))
        for call, (value, added) in self._values.items():
            self._see(call, value, [next(slopes) for _ in added])
        leaves, spec = tree_flatten(out)
        detached = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return tree_unflatten(detached, spec)

    def _probe(self, part: Tensor) -> Tensor:
        signs = torch.randint(0, 2, part.shape, generator=self._generator) * 2 - 1
        return signs.to(part)

    def _at_site(self, call: Call, out: Any, bases: Sequence[Tensor | None]) -> Any:
        leaves, spec = tree_flatten(less_bases(out, bases))
        where = [i for i, leaf in enumerate(leaves) if is_value(leaf)]
        value = [leaves[i].detach().clone() for i in where]
        added = [torch.zeros_like(part).requires_grad_() for part in value]
        for i, nothing in zip(where, added, strict=True):
            leaves[i] = leaves[i] + nothing
        self._values[call] = (value, added)
        return with_bases(tree_unflatten(leaves, spec), bases)

    def _see(self, call: Call, value: Parts, slopes: Sequence[Tensor | None]) -> None:
        key = (self._place.lane, call)
        window = self._ages + PREDICTED_FROM - 1
        before = self._before.setdefault(key, deque(maxlen=window))
        for age in range(1, min(self._ages, len(before)) + 1):
            error = sum(
                _square(slope, now - earlier)
                for slope, now, earlier in zip(slopes, value, before[age - 1], strict=True)
                if slope is not None
            )
            if self._predicts:
                known = list(before)[age - 1 : age - 1 + PREDICTED_FROM]
                error *= explained(gram_of(known, value))
            cell = (self._place.step, call[0], age - 1)
            self.errors[cell] = error + (0 if np.isinf(self.errors[cell]) else self.errors[cell])
        before.appendleft(value)


def _square(slope: Tensor, change: Tensor) -> float:
    """The sum over the first dimension, images where there are any, of squared products."""
    products = (slope.float() * change.float()).flatten(1 if slope.dim() > 1 else 0)
    return float(products.sum(dim=-1).square().sum())


def smoothed(errors: Array) -> Array:
    """Errors that never fall with age: a probe is a sample."""
    return np.maximum.accumulate(errors, axis=2)
