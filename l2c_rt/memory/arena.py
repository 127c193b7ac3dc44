"""Tensors over the C++ arena: the one place where `_C` and torch meet."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from l2c_rt._C import Arena

_NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


class SlotMemory:
    """`num_slots` tensors of one shape at fixed addresses, whose memory can be given back.

    The tensors stay valid after `wake`, with their contents lost, and keep the memory alive when
    this object is gone. While it sleeps they read as zeros on the host and must not be touched on
    a GPU. `sleep`, `wake` and `poison` may be called from any thread, but wait for no other thread
    that is using the tensors on the host.
    """

    def __init__(
        self, num_slots: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        if dtype not in _NAMES:
            names = ", ".join(_NAMES.values())
            raise ValueError(f"cache slots: dtype {dtype}, wanted one of {names}")
        slot_bytes = math.prod(shape) * dtype.itemsize
        self._arena = Arena(num_slots, slot_bytes, _index(device))
        self.slots: tuple[Tensor, ...] = tuple(
            from_dlpack(self._arena.view(slot, shape, _NAMES[dtype])) for slot in range(num_slots)
        )
        self.all_slots: Tensor = from_dlpack(self._arena.all_slots(shape, _NAMES[dtype]))

    @property
    def arena(self) -> Arena:
        return self._arena

    @property
    def nbytes(self) -> int:
        """Bytes physically mapped: 0 while asleep."""
        return self._arena.mapped_bytes

    @property
    def allocations(self) -> int:
        """How many times physical memory was taken: 1, and 1 more for each `wake`."""
        return self._arena.allocations

    @property
    def awake(self) -> bool:
        return self._arena.awake

    def poison(self) -> None:
        """Fill every slot with NaN."""
        self._arena.poison()

    def sleep(self) -> None:
        """Give the physical memory back and keep the addresses; nothing happens when asleep."""
        self._arena.sleep()

    def wake(self) -> None:
        """Take physical memory again at the same addresses; nothing happens when awake.

        Raises: MemoryError when there is too little; it still sleeps then.
        """
        self._arena.wake()


def used_now(arenas: Iterable[Arena]) -> None:
    """What the current stream has been given until now uses these arenas, where they are on a GPU:
    their memory goes only after that."""
    for arena in arenas:
        if arena.device >= 0:
            arena.used_on(torch.cuda.current_stream(arena.device).cuda_stream)


def _index(device: torch.device) -> int:
    if device.type == "cpu":
        return -1
    if device.type == "cuda":
        return torch.cuda.current_device() if device.index is None else device.index
    raise ValueError(f"cache slots: device {device}, wanted cpu or cuda")
