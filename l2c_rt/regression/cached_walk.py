"""Runs along the cached trajectory in which every branch is computed too, and regressed on.

Evaluation by evaluation: what a reused branch gives is compared with what it gave before, the fit
so far is taken, and its prediction is used from there on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.calibration.recorder import streams_of
from l2c_rt.learning.grams import Parts, gram_of
from l2c_rt.learning.site_passes import Call, SitePasses, less_bases, with_bases
from l2c_rt.regression.fits import Cell, Fits
from l2c_rt.runtime.loop_model import Place
from l2c_rt.schedule.cache_schedule import CacheSchedule


class Predictor(Protocol):
    """What says which branch is reused, and by which coefficients.

    `history` computed outputs of every branch are held.  Shapes: compute [S, K] bool.
    """

    compute: npt.NDArray[np.bool_]
    history: int

    def see(self, cell: Cell, before: Sequence[Parts], value: Parts) -> Sequence[float] | None:
        """The coefficients of the outputs `before`, newest first, that stand for `value`; None
        where the newest one does."""
        ...


class FittingPredictor:
    """Fits as it goes; `fold` is that of the run that comes."""

    def __init__(self, fits: Fits) -> None:
        self.fits, self.compute, self.history, self.fold = fits, fits.compute, fits.history, 0

    def see(self, cell: Cell, before: Sequence[Parts], value: Parts) -> Sequence[float] | None:
        """By all runs so far, this one included."""
        self.fits.add(cell, self.fold, gram_of(before, value))
        coefficients = self.fits.coefficients(cell)
        return None if coefficients is None else coefficients.tolist()


class FixedPredictor:
    """The coefficients of a schedule whose predictions are over computed outputs."""

    def __init__(self, schedule: CacheSchedule) -> None:
        self._predictions, self.compute = schedule.predictions, schedule.compute
        self.history = 1 if self._predictions is None else self._predictions.sources.shape[2] or 1

    def see(self, cell: Cell, before: Sequence[Parts], value: Parts) -> Sequence[float] | None:
        """Whatever the value is."""
        terms = () if self._predictions is None else self._predictions.at(*cell)
        return [term.coefficient for term in terms] or None


class CachedWalk:
    """Stands for the model in runs; see above."""

    def __init__(self, bound_model: BoundModel, predictor: Predictor) -> None:
        self._bound_model, self._predictor = bound_model, predictor
        self._passes: SitePasses | None = None
        self._place = Place(0, 0)
        self._computed: dict[tuple[int, Call], list[Parts]] = {}

    def begin_run(self) -> None:
        """A run begins: the attributes of the model's modules may be others."""
        self._computed.clear()
        if self._passes is not None:
            self._passes.refresh()

    @torch.no_grad()
    def call(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's return value, predictions in the place of what is reused."""
        if self._passes is None:
            streams: Mapping[str, Any] = streams_of(self._bound_model, args, kwargs)
            self._passes = SitePasses(self._bound_model, streams, checkpointing=False)
        self._place = place
        return self._passes.run(self._at_site, args, kwargs)

    def _at_site(self, call: Call, out: Any, bases: Sequence[Tensor | None]) -> Any:
        cell = (self._place.step, call[0])
        computed = self._computed.setdefault((self._place.lane, call), [])
        added = less_bases(out, bases)
        leaves, spec = tree_flatten(added)
        where = [i for i, leaf in enumerate(leaves) if is_value(leaf)]
        if self._predictor.compute[cell]:
            computed.insert(0, [leaves[i].detach().clone() for i in where])
            del computed[self._predictor.history :]
            return out
        value = [leaves[i] for i in where]
        coefficients = self._predictor.see(cell, computed, value)
        parts = computed[0] if coefficients is None else weighted(coefficients, computed, value)
        for i, part in zip(where, parts, strict=True):
            leaves[i] = part
        return with_bases(tree_unflatten(leaves, spec), bases)


def weighted(coefficients: Sequence[float], before: Sequence[Parts], value: Parts) -> Parts:
    """The sum of coefficients times earlier values, in the dtypes of `value`."""
    sums = []
    for i, part in enumerate(value):
        total = torch.zeros_like(part, dtype=torch.float32)
        for coefficient, earlier in zip(coefficients, before, strict=True):
            total.add_(earlier[i], alpha=coefficient)
        sums.append(total.to(part.dtype))
    return sums


def is_value(leaf: Any) -> bool:
    """Whether a leaf of an output is cached."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
