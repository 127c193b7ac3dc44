"""The cache slots of one lane of one session: allocated once, written and read in place."""

from __future__ import annotations

from l2c_rt.arena import SlotMemory
from torch import Tensor


class Slots:
    """`num_slots` tensors of one shape, taken from an arena when the first branch is stored."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._memory: SlotMemory | None = None

    def target(self, slot: int, like: Tensor) -> Tensor:
        """The slot's tensor, to be written; shape and dtype are fixed by the first `like`."""
        if self._memory is None:
            self._memory = SlotMemory(self.num_slots, tuple(like.shape), like.dtype, like.device)
        view = self._memory.slots[slot]
        if view.shape != like.shape or view.dtype != like.dtype:
            raise ValueError(
                f"slot {slot}: branch output is {tuple(like.shape)} {like.dtype}, but the slots "
                f"hold {tuple(view.shape)} {view.dtype}; every branch must give the same shape and "
                "dtype (check autocast regions)"
            )
        return view

    def store(self, slot: int, out: Tensor) -> None:
        self.target(slot, out).copy_(out)

    def load(self, slot: int) -> Tensor:
        assert self._memory is not None, f"{slot=} read before any write"
        return self._memory.slots[slot]

    @property
    def memory(self) -> SlotMemory | None:
        return self._memory

    def poison(self) -> None:
        """Fill with NaN, so that a read of a stale value shows."""
        if self._memory is not None:
            self._memory.poison()

    def sleep(self) -> None:
        if self._memory is not None and self._memory.awake:
            self._memory.sleep()

    def wake(self) -> None:
        if self._memory is not None and not self._memory.awake:
            self._memory.wake()
