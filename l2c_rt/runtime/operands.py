"""The tensors of a corrector, on the device where they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.memory.mixing import Operand, Rounding
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

NONE: Mapping[str, Operand] = {}


class Operands:
    """By evaluation and branch.  Those of one device are made at their first use, and kept."""

    def __init__(self, predictions: Predictions | None, branches: Sequence[str]) -> None:
        self._predictions, self._branches = predictions, branches
        self._cells = () if predictions is None else _cells(predictions)
        self._made: dict[torch.device, dict[int, dict[str, Operand]]] = {}

    def at(self, evaluation: int, device: torch.device) -> Mapping[str, Operand]:
        """Those of one evaluation, by branch."""
        if not self._cells:
            return NONE
        if device not in self._made:
            self._made[device] = self._all(device)
        return self._made[device].get(evaluation, NONE)

    @property
    def nbytes(self) -> int:
        """Memory of all that was made, on every device."""
        operands = (o for steps in self._made.values() for s in steps.values() for o in s.values())
        tensors = (t for operand in operands for t in (operand.scale, operand.shift))
        return sum(t.nbytes for t in tensors if t is not None)

    def drop(self) -> None:
        """Give the memory back; the next use makes them again."""
        self._made.clear()

    def _all(self, device: torch.device) -> dict[int, dict[str, Operand]]:
        assert self._predictions is not None
        made: dict[int, dict[str, Operand]] = {}
        for cell in self._cells:
            scale, shift = (
                _tensor(arrays.get(cell), device)
                for arrays in (self._predictions.scale, self._predictions.shift)
            )
            operand = Operand(scale, shift, _rounding(self._predictions, cell))
            made.setdefault(cell[0], {})[self._branches[cell[1]]] = operand
        return made


def without_kernels(model: BoundModel, schedule: CacheSchedule) -> BoundModel:
    """The model as a schedule with rounded differences runs it."""
    if schedule.predictions is None or schedule.predictions.rounding is None:
        return model
    return replace(model, unfused_on_gpu="no kernel rounds the differences of predicted outputs")


def _cells(predictions: Predictions) -> tuple[tuple[int, int], ...]:
    if predictions.rounding is None:
        return tuple(dict.fromkeys((*predictions.scale, *predictions.shift)))
    # A series of differences has coefficients that add up to 1; those of zeros are 0.
    predicted = np.argwhere((predictions.coefficients != 0).any(axis=(0, 3)))
    return tuple((int(s), int(k)) for s, k in predicted)


def _rounding(predictions: Predictions, cell: tuple[int, int]) -> Rounding | None:
    if predictions.rounding is None:
        return None
    evaluations = (term.evaluation - cell[0] for term in predictions.at(*cell))
    return Rounding(getattr(torch, predictions.rounding), (*evaluations, 0))


def _tensor(array: npt.NDArray[np.float32] | None, device: torch.device) -> torch.Tensor | None:
    return None if array is None else torch.tensor(array, dtype=torch.float32, device=device)
