"""What depends on (timestep, label) only, for every evaluation of all requests that run.

A request is tabulated when it begins, in the products of a run of that request alone, so that its
rows do not depend on those beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.backends.cuda.cuda_parts import FusedModel
from l2c_rt.backends.cuda.modulation_table import ModulationTable
from l2c_rt.backends.cuda.weight_copies import WeightCopies
from l2c_rt.device.host_tensors import host_tensor
from l2c_rt.kernels.operands import Modulation


class RequestTables:
    """Rows of `samples` samples, and the weights' copies, of all sizes of batches.

    Shapes: table [1, samples S, C, D], of sample r at evaluation s the row r S + s.
    """

    def __init__(self, fused: FusedModel, samples: int, timesteps: Sequence[float]) -> None:
        self._fused, self.samples = fused, samples
        self.steps, device = fused.plan.num_evaluations, fused.outer.linear.weight.device
        self.counter = torch.zeros(2, dtype=torch.int32, device=device)
        # With and without guidance.
        self._of_one = {n: ModulationTable(fused, self.counter, range(n)) for n in (1, 2)}
        table = self._of_one[1].modulation.table
        self.table = table.new_zeros(1, samples * self.steps, *table.shape[2:])
        self.final, self.has_labels = self._of_one[1].final, self._of_one[1].y is not None
        self.t = torch.tensor(timesteps, dtype=torch.float32, device="cpu").to(device)
        self.weights = WeightCopies(fused.fusable, fused.outer, 0)

    @property
    def nbytes(self) -> int:
        tables = sum(table.nbytes for table in self._of_one.values())
        return tables + self.table.nbytes + self.weights.nbytes

    def take_weights(self) -> None:
        """Copy the weights as they are now."""
        self.weights.refresh()
        if self._fused.quantized is not None:
            self._fused.quantized.refresh(self._fused.cuda.kernels)

    def tabulate(self, sample: int, labels: Tensor | None, count: int) -> None:
        """A request begins, whose `count` samples, 1 or 2, are from `sample` on.

        Shapes: labels int64 [count].
        """
        of_one = self._of_one[count]
        if of_one.y is not None:
            assert labels is not None
            of_one.y.copy_(labels)
        rows = self.table.view(self.samples, self.steps, *self.table.shape[2:])
        for first in range(0, self.steps, of_one.steps):
            t = self.t[first : first + of_one.steps]
            of_one.t[: len(t)].copy_(t)
            of_one.fill(of_one.steps)
            filled = of_one.modulation.table[: len(t)].transpose(0, 1)
            rows[sample : sample + count, first : first + len(t)].copy_(filled)


def tables_for(
    fused: FusedModel, counter: Tensor, rows: Sequence[int] | BatchTable, guided: int
) -> tuple[ModulationTable | BatchTable, WeightCopies]:
    """The table and the copies of weights of one input shape: its own, or those of all requests."""
    if isinstance(rows, BatchTable):
        return rows, rows.weights
    return ModulationTable(fused, counter, rows), WeightCopies(fused.fusable, fused.outer, guided)


class BatchTable:
    """The rows of the samples of one batch, which its graphs read by `index`.

    Shapes: places int32 [B, 2], see `Reuses`; modulation.rows int32 [B].
    """

    def __init__(self, requests: RequestTables, batch: int) -> None:
        self._requests, device = requests, requests.table.device
        self._index = torch.zeros(3 * batch, dtype=torch.int32, device=device)
        self.places = self._index[: 2 * batch].view(batch, 2)
        self.modulation = Modulation(
            requests.table, self._index[2 * batch :], requests.counter
        )  # fmt: skip
        self.steps, self.final, self.t = requests.steps, requests.final, requests.t
        self.weights = requests.weights
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        self.y = labels if requests.has_labels else None

    @property
    def nbytes(self) -> int:
        """Beside the tables of all batches."""
        return self._index.nbytes

    def seed(self) -> None:
        """The first step is checked at the first timestep."""

    def of_images(self) -> Tensor | None:
        """The label of every image where the first step is checked."""
        return self.y

    def point_at(self, samples: Sequence[int], steps: Sequence[int]) -> None:
        """The batch is of these samples, each at an evaluation of its own; the last of all samples
        fills it up."""
        missing = len(self.places) - len(samples)
        samples = [*samples, *[self._requests.samples - 1] * missing]
        steps = [*steps, *[0] * missing]
        places = [number for pair in zip(samples, steps, strict=True) for number in pair]
        rows = [r * self.steps + s for r, s in zip(samples, steps, strict=True)]
        host = host_tensor([*places, *rows], torch.int32, self._index.device)
        self._index.copy_(host, non_blocking=True)
