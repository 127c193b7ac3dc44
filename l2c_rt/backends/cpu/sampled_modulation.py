"""shift, scale and gate where every sample of a batch has a timestep of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableModel
from l2c_rt.backends.cpu.modulation import ModulationTable


class SampledModulation(ModulationTable):
    """Rows [labels, steps, chunks, D], all steps of a label in one product per block.

    There is room for the labels of `requests` requests and the one for no class; the label that was
    used longest ago makes room for another.  A row depends on no other label, so that a request
    does not depend on those beside it.
    """

    def __init__(self, fusable: FusableModel, evaluations: int, requests: int) -> None:
        self._room = requests + 1
        super().__init__(fusable, evaluations)
        branch = next(iter(fusable.branches.values()))
        weight = next(branch.module.parameters())
        chunks = 6 * self._blocks + (0 if self._final is None else 2)
        shape = (self._room, evaluations, chunks, branch.norm.normalized_shape[0])
        self._tabulated = weight.new_empty(shape)

    def drop(self) -> None:
        """Forget every row; the next call tabulates anew."""
        super().drop()
        # Places by label, used last at the end.
        self._places: dict[int, int] = {}
        self._free = list(range(self._room))
        self._steps: dict[float, int] = {}

    @property
    def nbytes(self) -> int:
        return self._tabulated.nbytes

    def begin(self, t: Tensor, y: Tensor, step: int, timesteps: Sequence[float] | None) -> Tensor:
        """The rows of these samples, [B, 6 * blocks + 2, D].

        Shapes: t, y [B], t among the timesteps, y with no more labels than there is room for.
        """
        assert timesteps is not None
        if not self._steps:
            self._timesteps = torch.tensor(timesteps, dtype=torch.float64).to(t.dtype)
            self._steps = {value: k for k, value in enumerate(self._timesteps.tolist())}
        labels = y.tolist()
        self._make_room(dict.fromkeys(labels), y)
        numbers = [
            self._places[label] * self._evaluations + self._steps[value]
            for label, value in zip(labels, t.tolist(), strict=True)
        ]
        self._inverse = torch.tensor(numbers)
        return self._of_batch(self._tabulated.flatten(0, 1))

    def _make_room(self, labels: Iterable[int], like: Tensor) -> None:
        known = [label for label in labels if label in self._places]
        for label in known:
            self._places[label] = self._places.pop(label)
        for label in labels:
            if label not in self._places:
                place = (
                    self._free.pop() if self._free else self._places.pop(next(iter(self._places)))
                )
                self._places[label] = place
                self._tabulate(label, place, like)

    def _tabulate(self, label: int, place: int, like: Tensor) -> None:
        c = self._condition(self._timesteps, like.new_full((self._evaluations,), label))
        self._tabulated[place] = self._rows_for(c, self._evaluations, 1, slice(None))[:, 0]


def table_for(
    fusable: FusableModel, evaluations: int, requests: int | None
) -> ModulationTable | None:
    """The table of a model; None where it has no modulation.

    With `requests`, of which so many run at once, every sample may be at a step of its own.
    """
    if fusable.modulation is None:
        return None
    if requests is None:
        return ModulationTable(fusable, evaluations)
    return SampledModulation(fusable, evaluations, requests)
