"""What kernels add up, as lists on the device: numbers of slots and gates, and factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableModel
from l2c_rt.backends.cuda.buffers import Buffers
from l2c_rt.backends.cuda.modulation_table import chunk_of
from l2c_rt.backends.cuda.prediction_table import PredictionTable
from l2c_rt.kernels.operands import Reuses, Weights
from l2c_rt.plan.lowering import BaseTerm, Mix, Term, Terms


class TermLists:
    """Each made when it is first asked for, which a capture cannot do.

    The tables of factors cover a window of `steps` evaluations.
    """

    def __init__(
        self,
        fusable: FusableModel,
        buffers: Buffers,
        steps: int,
        predictions: PredictionTable | None,
    ) -> None:
        self._fusable, self._buffers, self._steps = fusable, buffers, steps
        self._predictions = predictions
        self._lists: dict[Terms, Reuses] = {}
        self._mixed: dict[Mix, Reuses] = {}
        self._signs: Tensor | None = None

    def of(self, terms: Terms) -> Reuses:
        """The terms as kernels read them."""
        if terms not in self._lists:
            gated, branches = self._fusable.modulation is not None, self._fusable.branches
            chunks = [chunk_of(branches[t.branch], 2) for t in terms if gated and type(t) is Term]
            numbers = self._on_device([*(t.slot for t in terms), *chunks])
            slots, gates = numbers[: len(terms)], numbers[len(terms) :]
            weights = self._weights(terms)
            self._lists[terms] = self._reuses(slots, gates if gated else None, weights)
        return self._lists[terms]

    def mixed(self, launch: Mix) -> Reuses:
        """The slots of a prediction that is kept, with its coefficients."""
        if launch not in self._mixed:
            assert self._predictions is not None
            slots = self._on_device(launch.slots)
            at = range(launch.at, launch.at + len(launch.slots))
            self._mixed[launch] = self._reuses(slots, None, self._predictions.weights([*at]))
        return self._mixed[launch]

    @property
    def all(self) -> list[Reuses]:
        """Every list so far."""
        return [*self._lists.values(), *self._mixed.values()]

    def _reuses(self, slots: Tensor, gates: Tensor | None, weights: Weights | None) -> Reuses:
        arena, places = self._buffers.memory.all_slots, self._buffers.places
        return Reuses(arena, slots, gates, weights, places)

    def _weights(self, terms: Terms) -> Weights | None:
        """None where every term is added as it is."""
        signs = [term.sign if isinstance(term, BaseTerm) else 1 for term in terms]
        if -1 in signs:
            return self._signed(signs)
        at = [term.at if isinstance(term, Term) else None for term in terms]
        if self._predictions is None or all(number is None for number in at):
            return None
        return self._predictions.weights(at)

    def _signed(self, signs: Sequence[int]) -> Weights:
        """Factors that are the same at every evaluation."""
        counter = self._buffers.counter
        if self._signs is None:
            row = torch.tensor([[1.0, -1.0]], dtype=torch.float32, device="cpu")
            self._signs = row.to(counter.device).repeat(self._steps, 1)
        columns = self._on_device([int(sign < 0) for sign in signs])
        return Weights(self._signs, columns, counter)

    def _on_device(self, numbers: Sequence[int]) -> Tensor:
        device = self._buffers.counter.device
        return torch.tensor(numbers, dtype=torch.int32, device="cpu").to(device)
