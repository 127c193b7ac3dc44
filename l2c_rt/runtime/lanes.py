"""What one session keeps between calls: slots and prepared tables, per lane and input shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from l2c_rt.adapters.bound_model import State
from l2c_rt.memory.slots import Slots

MAX_SHAPES = 4
"""Input shapes whose slots a session keeps; the least recently used one is dropped."""

Key = tuple[tuple[int, ...], torch.dtype, torch.device, torch.dtype | None]
"""Shape, dtype and device of the input, and the dtype that autocast computes in."""


@dataclass(slots=True)
class Lane:
    slots: Slots
    workspace: Any


class Lanes:
    """The lanes of a session for each of the last few input shapes."""

    def __init__(self, count: int, make: Callable[[], Lane]) -> None:
        self._count, self._make = count, make
        self._shapes: OrderedDict[Key, list[Lane]] = OrderedDict()

    def at(self, key: Key) -> list[Lane]:
        """The lanes for inputs like this, made where there are none."""
        if key not in self._shapes:
            self._shapes[key] = [self._make() for _ in range(self._count)]
        self._shapes.move_to_end(key)
        while len(self._shapes) > MAX_SHAPES:
            self._shapes.popitem(last=False)
        return self._shapes[key]

    def all(self) -> list[Lane]:
        return [lane for lanes in list(self._shapes.values()) for lane in lanes]

    def clear(self) -> None:
        self._shapes.clear()


def key_of(state: State) -> Key:
    device = state.x.device
    narrow = torch.is_autocast_enabled(device.type)
    return (
        tuple(state.x.shape),
        state.x.dtype,
        device,
        torch.get_autocast_dtype(device.type) if narrow else None,
    )


def spell(key: Key) -> str:
    shape, dtype, device, narrow = key
    text = f"{list(shape)} {str(dtype).removeprefix('torch.')} on {device}"
    return text if narrow is None else f"{text} under autocast to {narrow}"
