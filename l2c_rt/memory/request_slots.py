"""The cache slots of many requests in one arena, read and written as the slots of a batch."""

from __future__ import annotations

from collections.abc import Sequence

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
        return BatchSlots(() if self._memory is None else self._memory.slots, rows, self.device)

    def poison(self) -> None:
        """Fill every slot with NaN, so that a stale read would show."""
        if self._memory is not None:
            self._memory.poison()

    @property
    def nbytes(self) -> int:
        return 0 if self._memory is None else self._memory.nbytes


class BatchSlots(Slots):
    """The slots of the samples of one evaluation.

    Samples that lie together are read and written where they are; others are gathered, and what
    was written is put in its place before the next access, or by `commit`.
    """

    def __init__(
        self, memory: tuple[Tensor, ...], rows: Sequence[int], device: torch.device
    ) -> None:
        super().__init__(len(memory))
        self._slots = memory
        self._together = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        self._span = slice(rows[0], rows[0] + len(rows))
        self._rows = torch.empty(0) if self._together else torch.tensor(rows, device=device)
        self._written: tuple[int, Tensor] | None = None
        self._scratch: Tensor | None = None

    def target(self, slot: int, like: Tensor) -> Tensor:
        """Where an output is to be written, until the next access.  Raises ValueError for another
        shape or dtype than the slots have."""
        place = self._place(slot, like)
        if self._together:
            return place[self._span]
        if self._scratch is None:
            self._scratch = torch.empty_like(like, memory_format=torch.contiguous_format)
        self._written = slot, self._scratch
        return self._scratch

    def store(self, slot: int, out: Tensor) -> None:
        place = self._place(slot, out)
        if self._together:
            place[self._span].copy_(out)
        else:
            place.index_copy_(0, self._rows, out)

    def load(self, slot: int) -> Tensor:
        self.commit()
        place = self._slots[slot]
        return place[self._span] if self._together else place.index_select(0, self._rows)

    def commit(self) -> None:
        """Put what was written last in its place."""
        if self._written is not None:
            slot, out = self._written
            self._slots[slot].index_copy_(0, self._rows, out)
            self._written = None

    def _place(self, slot: int, like: Tensor) -> Tensor:
        self.commit()
        place = self._slots[slot]
        if place.shape[1:] != like.shape[1:] or place.dtype != like.dtype:
            raise ValueError(
                f"slot {slot}: branch output is {tuple(like.shape)} {like.dtype}, but the slots "
                f"hold {tuple(place.shape[1:])} {place.dtype} for each sample; every branch must "
                "give the same shape and dtype (check autocast regions)"
            )
        return place
