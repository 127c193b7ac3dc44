"""Runs along the cached trajectory in which every branch is computed too, and regressed on.

Evaluation by evaluation: what a reused branch gives is compared with what it gave before, the fit
so far is taken, and its prediction is used from there on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.site_passes import Call, SitePasses, less_bases, with_bases
from l2c_rt.calibration.recorder import streams_of
from l2c_rt.memory.mixing import lane_blocks
from l2c_rt.regression.fits import Cell, Fits
from l2c_rt.regression.grams import Parts, gram_of
from l2c_rt.runtime.loop_model import Place
from l2c_rt.runtime.sample_lanes import Guided, sample_lanes, uncond_first
from l2c_rt.schedule.cache_schedule import CacheSchedule


class Predictor(Protocol):
    """What says which branch is reused, and by which coefficients.

    `history` values of every branch are held, as they were used.  With a `carry` above 0, what
    predictions have missed by is held too, and that share of it is owed by the next one.
    Shapes: compute [S, K] bool.
    """

    compute: npt.NDArray[np.bool_]
    history: int
    carry: float
    lanes: int

    def see(
        self, cell: Cell, lane: int, before: Sequence[Parts], value: Parts
    ) -> Sequence[float] | None:
        """The coefficients of the values used `before`, newest first, that stand for `value`, which
        has what is owed; None where the newest one does.  All are of the samples of one lane."""
        ...


class FittingPredictor:
    """Fits as it goes; `fold` is that of the run that comes."""

    def __init__(self, fits: Fits) -> None:
        self.fits, self.compute, self.fold = fits, fits.compute, 0
        self.history, self.carry, self.lanes = fits.history, fits.carry, fits.lanes

    def see(
        self, cell: Cell, lane: int, before: Sequence[Parts], value: Parts
    ) -> Sequence[float] | None:
        """By all runs so far, this one included."""
        self.fits.add(cell, lane, self.fold, gram_of(before, value))
        coefficients = self.fits.coefficients(cell, lane)
        return None if coefficients is None else coefficients.tolist()


class FixedPredictor:
    """The coefficients of a schedule."""

    carry = 0.0

    def __init__(self, schedule: CacheSchedule) -> None:
        self._predictions, self.compute = schedule.predictions, schedule.compute
        self.history = self.lanes = 1
        if self._predictions is not None:
            s, k, m = np.nonzero(self._predictions.sources >= 0)
            self.lanes = self._predictions.lanes
            lags = s - self._predictions.sources[s, k, m]
            self.history = int(lags.max(initial=1))

    def see(
        self, cell: Cell, lane: int, before: Sequence[Parts], value: Parts
    ) -> Sequence[float] | None:
        """Whatever the value is."""
        terms = () if self._predictions is None else self._predictions.at(*cell, lane)
        coefficients = [0.0] * len(before)
        for term in terms:
            coefficients[cell[0] - 1 - term.evaluation] += term.coefficient
        return coefficients if terms else None


@dataclass(slots=True)
class SeenOrder:
    """Whether guided batches of a loop have had their unconditional half first; None where nothing
    has shown it."""

    uncond_first: bool | None = None


class CachedWalk:
    """Stands for the model in runs; see above.  What their batches show goes to `seen`."""

    def __init__(
        self, bound_model: BoundModel, predictor: Predictor, calls_per_step: int = 1,
        seen: SeenOrder | None = None,
    ) -> None:  # fmt: skip
        self._bound_model, self._predictor = bound_model, predictor
        self._seen = seen or SeenOrder()
        self._calls_per_step = calls_per_step
        self._lanes: tuple[int, ...] = ()
        self._passes: SitePasses | None = None
        self._place = Place(0, 0)
        self._used: dict[tuple[int, Call], list[Parts]] = {}
        self._owed: dict[tuple[int, Call], Parts] = {}

    def begin_run(self) -> None:
        """A run begins: the attributes of the model's modules may be others."""
        self._used.clear()
        self._owed.clear()
        if self._passes is not None:
            self._passes.refresh()

    @torch.no_grad()
    def call(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's return value, predictions in the place of what is reused."""
        if self._passes is None:
            streams: Mapping[str, Any] = streams_of(self._bound_model, args, kwargs)
            self._passes = SitePasses(self._bound_model, streams, checkpointing=False)
        self._place = place
        if self._predictor.lanes > 1 and (place.step == 0 or self._calls_per_step > 1):
            state = self._bound_model.begin(*args, **kwargs)
            order = uncond_first(state, self._bound_model.sampling)
            guided = Guided(place.lane, self._calls_per_step, order)
            self._lanes = sample_lanes(state.x, self._predictor.lanes, guided)
            if order is not None and self._lanes:
                self._seen.uncond_first = order
        return self._passes.run(self._at_site, args, kwargs)

    def _at_site(self, call: Call, out: Any, bases: Sequence[Tensor | None]) -> Any:
        key = (self._place.lane, call)
        leaves, spec = tree_flatten(less_bases(out, bases))
        where = [i for i, leaf in enumerate(leaves) if is_value(leaf)]
        value = [leaves[i] for i in where]
        if self._predictor.compute[self._place.step, call[0]]:
            self._keep(key, [part.detach().clone() for part in value])
            return out
        parts = self._predicted(key, value)
        self._keep(key, parts)
        for i, part in zip(where, parts, strict=True):
            leaves[i] = part
        return with_bases(tree_unflatten(leaves, spec), bases)

    def _predicted(self, key: tuple[int, Call], value: Parts) -> Parts:
        """What stands for a value that is not computed."""
        used, owed, carry = self._used[key], self._owed.get(key), self._predictor.carry
        if owed is not None:
            value = [part.float().add(missed, alpha=carry)
                     for part, missed in zip(value, owed, strict=True)]  # fmt: skip
        parts = self._stand_ins((self._place.step, key[1][0]), used, value)
        if carry:
            pairs = zip(value, parts, strict=True)
            self._owed[key] = [part.float() - used_part.float() for part, used_part in pairs]
        return parts

    def _stand_ins(self, cell: Cell, used: Sequence[Parts], value: Parts) -> Parts:
        """The parts of a value, the rows of each lane from the same rows before."""
        blocks = [lane_blocks(part, self._lanes) for part in value]
        rows: dict[int, list[slice]] = {}
        for lane in {block.lane for of_part in blocks for block in of_part}:
            rows[lane] = [next((b.rows for b in of_part if b.lane == lane), slice(0))
                          for of_part in blocks]  # fmt: skip
        made = {lane: self._of_lane(cell, lane, used, value, rows[lane]) for lane in rows}
        return [
            made[of_part[0].lane][i] if len(of_part) == 1
            else torch.cat([made[block.lane][i] for block in of_part])
            for i, of_part in enumerate(blocks)
        ]  # fmt: skip

    def _of_lane(
        self, cell: Cell, lane: int, used: Sequence[Parts], value: Parts, rows: Sequence[slice]
    ) -> Parts:
        def cut(parts: Parts) -> Parts:
            pairs = zip(parts, rows, strict=True)
            return [part if part.dim() == 0 else part[of] for part, of in pairs]

        before = [cut(parts) for parts in used]
        coefficients = self._predictor.see(cell, lane, before, cut(value))
        return before[0] if coefficients is None else weighted(coefficients, before)

    def _keep(self, key: tuple[int, Call], value: Parts) -> None:
        used = self._used.setdefault(key, [])
        used.insert(0, value)
        del used[self._predictor.history :]


def weighted(coefficients: Sequence[float], before: Sequence[Parts]) -> Parts:
    """The sum of coefficients times earlier values, in their dtypes."""
    sums = []
    for i, part in enumerate(before[0]):
        total = torch.zeros_like(part, dtype=torch.float32)
        for coefficient, earlier in zip(coefficients, before, strict=True):
            total.add_(earlier[i], alpha=coefficient)
        sums.append(total.to(part.dtype))
    return sums


def is_value(leaf: Any) -> bool:
    """Whether a leaf of an output is cached."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
