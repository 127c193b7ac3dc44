"""The cache slots of many requests in one arena, read and written as the slots of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from l2c_rt.memory.arena import SlotMemory
from l2c_rt.memory.slots import Slots


class RequestSlots:
    """`num_slots` slots of `rows` samples each, taken at once: strides [slot, sample, ...].

    Shapes: a sample's output is `shape`.  Raises MemoryError where there is too little.
    """

    def __init__(
        self,
        num_slots: int,
        rows: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._memory = SlotMemory(num_slots, (rows, *shape), dtype, device) if num_slots else None
        self.num_slots, self.device = num_slots, device

    def of(self, rows: Sequence[int]) -> BatchSlots:
        """The slots of a batch whose samples are at `rows`."""
        return BatchSlots(self._memory, rows, self.device)

    def at(self, rows: Tensor) -> BatchSlots:
        """The same with `rows` int64 on the device, which may be written to between evaluations of
        what was captured."""
        return BatchSlots(self._memory, rows, self.device)

    def poison(self) -> None:
        """Fill every slot with NaN, so that a stale read would show."""
        if self._memory is not None:
            self._memory.poison()

    @property
    def nbytes(self) -> int:
        return 0 if self._memory is None else self._memory.nbytes


class BatchSlots(Slots):
    """The slots of the samples of one evaluation.

    Samples that lie together are read and written where they are.  Others are gathered at the first
    access to a slot, and what was written is put in its place by `commit`.
    """

    def __init__(
        self, memory: SlotMemory | None, rows: Tensor | Sequence[int], device: torch.device
    ) -> None:
        self._slots = () if memory is None else memory.slots
        super().__init__(len(self._slots))
        self._all, self._device = memory, device
        self._numbers = rows
        self._gathered: dict[int, Tensor] = {}

    @cached_property
    def _rows(self) -> Tensor | slice:
        rows = self._numbers
        if isinstance(rows, Tensor):
            return rows
        if list(rows) == list(range(rows[0], rows[0] + len(rows))):
            return slice(rows[0], rows[0] + len(rows))
        return torch.tensor(rows, device=self._device)

    @property
    def samples(self) -> int:
        """For how many there is room."""
        return len(self._slots[0])

    def reserve(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> SlotMemory:
        """The slots of all samples, for what finds those of a batch itself."""
        assert self._all is not None
        assert (self._slots[0].shape[1:], self._slots[0].dtype) == (shape[1:], dtype)
        return self._all

    def target(self, slot: int, like: Tensor) -> Tensor:
        """Where an output is to be written.  Raises ValueError for another shape or dtype than the
        slots have."""
        place = self._slots[slot]
        if place.shape[1:] != like.shape[1:] or place.dtype != like.dtype:
            raise ValueError(
                f"slot {slot}: branch output is {tuple(like.shape)} {like.dtype}, but the slots "
                f"hold {tuple(place.shape[1:])} {place.dtype} for each sample; every branch must "
                "give the same shape and dtype (check autocast regions)"
            )
        if isinstance(self._rows, slice):
            return place[self._rows]
        if slot not in self._gathered:
            self._gathered[slot] = place.new_empty((len(self._rows), *place.shape[1:]))
        return self._gathered[slot]

    def store(self, slot: int, out: Tensor) -> None:
        self.target(slot, out).copy_(out)

    def load(self, slot: int) -> Tensor:
        place = self._slots[slot]
        if isinstance(self._rows, slice):
            return place[self._rows]
        if slot not in self._gathered:
            self._gathered[slot] = place.index_select(0, self._rows)
        return self._gathered[slot]

    def commit(self, written: Iterable[int]) -> None:
        """Put the slots that an evaluation has written in their places."""
        for slot in written:
            if slot in self._gathered and isinstance(self._rows, Tensor):
                self._slots[slot].index_copy_(0, self._rows, self._gathered[slot])
