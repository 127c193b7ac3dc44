"""What a run keeps between calls: slots and a workspace, per lane and input shape.

A lane is one of the calls per step: cond and uncond, where a loop calls them separately.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from l2c_rt.backends.backend import MAX_SHAPES, Workspace
from l2c_rt.memory.slots import Slots
from l2c_rt.runtime.model_version import ModelVersion


class InputKey(NamedTuple):
    """What a lane was made for: the input, and the dtype that autocast computes in.

    A tuple, because one is made at every call and a frozen dataclass is slower to make.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    autocast: torch.dtype | None

    @staticmethod
    def of(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> InputKey:
        """The key of an input, under the autocast that holds now."""
        narrow = torch.is_autocast_enabled(device.type)
        autocast = torch.get_autocast_dtype(device.type) if narrow else None
        return InputKey(shape, dtype, device, autocast)

    def __str__(self) -> str:
        text = f"{list(self.shape)} {str(self.dtype).removeprefix('torch.')} on {self.device}"
        return text if self.autocast is None else f"{text} under autocast to {self.autocast}"


@dataclass(slots=True)
class Lane:
    slots: Slots
    workspace: Workspace


class Lanes:
    """The lanes of a run for each of the last few input shapes."""

    def __init__(self, count: int, on_memory_taken: Callable[[], None]) -> None:
        self.count = count
        self._on_memory_taken = on_memory_taken
        # A plain dict, last used last: listing its values is one step that no thread interrupts.
        self._shapes: dict[InputKey, list[Lane]] = {}

    def at(self, key: InputKey, version: ModelVersion) -> list[Lane]:
        """The lanes for inputs like this, made where there are none."""
        lanes = self._shapes.pop(key, None)
        if lanes is None:
            lanes = [self._new(version) for _ in range(self.count)]
        self._shapes[key] = lanes
        while len(self._shapes) > MAX_SHAPES:
            del self._shapes[next(iter(self._shapes))]
        return lanes

    def begin_run(self, key: InputKey, version: ModelVersion) -> list[Lane]:
        """The lanes for a run with inputs like this, with nothing of an earlier run in them."""
        lanes = self.at(key, version)
        for lane in lanes:
            lane.workspace.drop_tables()
        version.begin_run()
        return lanes

    def renew(self, version: ModelVersion) -> None:
        """Give every lane a workspace for another version; slots stay where they are as many."""
        for lane in self.all():
            if lane.slots.num_slots != version.num_slots:
                lane.slots = Slots(version.num_slots, self._on_memory_taken)
            lane.workspace = version.backend.workspace(version.plan)

    def all(self) -> list[Lane]:
        return [lane for lanes in list(self._shapes.values()) for lane in lanes]

    def clear(self) -> None:
        self._shapes.clear()

    def _new(self, version: ModelVersion) -> Lane:
        slots = Slots(version.num_slots, self._on_memory_taken)
        return Lane(slots, version.backend.workspace(version.plan))
