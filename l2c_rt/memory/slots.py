"""The cache slots of one lane: allocated once, written and read in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from l2c_rt.memory.arena import SlotMemory, used_now
from l2c_rt.memory.kept_values import KeptValues


class Slots:
    """`num_slots` tensors of one shape, taken from an arena when the first branch is stored.

    Or, where outputs have several shapes or are tuples, `values`: a backend uses one or the other.
    `on_taken` is called whenever memory is taken.
    """

    def __init__(self, num_slots: int, on_taken: Callable[[], None] = lambda: None) -> None:
        self.num_slots = num_slots
        self._on_taken = on_taken
        self._memory: SlotMemory | None = None
        self.values = KeptValues(on_taken)

    def target(self, slot: int, like: Tensor) -> Tensor:
        """The slot's tensor, to be written; shape and dtype are fixed by the first `like`."""
        if self._memory is None:
            self.reserve(tuple(like.shape), like.dtype, like.device)
        view = self.load(slot)
        if view.shape != like.shape or view.dtype != like.dtype:
            raise ValueError(
                f"slot {slot}: branch output is {tuple(like.shape)} {like.dtype}, but the slots "
                f"hold {tuple(view.shape)} {view.dtype}; every branch must give the same shape and "
                "dtype (check autocast regions)"
            )
        return view

    def reserve(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> SlotMemory:
        """All slots at once, taken now if they are not there yet, or were for another shape, dtype
        or device: a model that was cast or moved."""
        memory = self._memory
        if memory is not None:
            like = memory.slots[0]
            if (tuple(like.shape), like.dtype, like.device) == (shape, dtype, device):
                return memory
        self._memory = None
        self._memory = SlotMemory(self.num_slots, shape, dtype, device)
        self._on_taken()
        return self._memory

    def store(self, slot: int, out: Tensor) -> None:
        self.target(slot, out).copy_(out)

    def load(self, slot: int) -> Tensor:
        assert self._memory is not None, f"{slot=} read before any write"
        return self._memory.slots[slot]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self._memory is None else self._memory.nbytes)

    @property
    def awake(self) -> bool:
        return self.values.awake and (self._memory is None or self._memory.awake)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """What the current stream is given inside uses the slots: their memory goes only after it,
        also where it fails midway."""
        try:
            yield
        finally:
            used_now(self.values.arenas)
            if self._memory is not None:
                used_now((self._memory.arena,))

    def poison(self) -> None:
        """Fill with NaN, so that a read of a stale value shows."""
        self.values.poison()
        if self._memory is not None and self._memory.awake:
            self._memory.poison()

    def sleep(self) -> None:
        self.values.sleep()
        if self._memory is not None and self._memory.awake:
            self._memory.sleep()

    def wake(self) -> None:
        self.values.wake()
        if self._memory is not None and not self._memory.awake:
            self._memory.wake()
            self._on_taken()
