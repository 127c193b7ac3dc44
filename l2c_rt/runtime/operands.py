"""The tensors of a corrector, on the device where they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from l2c_rt.memory.mixing import Operand
from l2c_rt.schedule.predictions import Predictions

NONE: Mapping[str, Operand] = {}


class Operands:
    """By evaluation and branch.  Those of one device are made at their first use, and kept."""

    def __init__(self, predictions: Predictions | None, branches: Sequence[str]) -> None:
        self._predictions, self._branches = predictions, branches
        cells = () if predictions is None else (*predictions.scale, *predictions.shift)
        self._cells = tuple(dict.fromkeys(cells))
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
        return sum(t.nbytes for operand in operands for t in operand if t is not None)

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
            made.setdefault(cell[0], {})[self._branches[cell[1]]] = Operand(scale, shift)
        return made


def _tensor(array: npt.NDArray[np.float32] | None, device: torch.device) -> torch.Tensor | None:
    return None if array is None else torch.tensor(array, dtype=torch.float32, device=device)
