"""The processes of one learning run: alone, or those that torchrun started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among `size`; the first one writes the files."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same everywhere."""
        if self.size == 1:
            return values
        total = values if self.device is None else values.to(self.device)
        dist.all_reduce(total)
        return total.to(values.device)

    def check_equal(self, what: str, value: int) -> None:
        """Raise ValueError everywhere where the processes disagree."""
        mine = torch.zeros(self.size, dtype=torch.float64)
        mine[self.rank] = value
        values = [int(v) for v in self.add(mine)]
        if len(set(values)) > 1:
            raise ValueError(
                f"learn: processes disagree about {what}: {values}; give them the same arguments "
                "and an `out` folder that all of them can read"
            )


@contextmanager
def joined(device: torch.device) -> Iterator[Workers]:
    """The group that is up, or torchrun's, taken down again at the end; else one process.

    nccl where the model is on a GPU, gloo elsewhere.
    """
    if not dist.is_available():
        yield Workers()
        return
    ours = not dist.is_initialized() and dist.is_torchelastic_launched()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        if dist.is_initialized():
            # nccl adds up what lies on a GPU only; gloo takes what lies on the host.
            place = device if dist.get_backend() == "nccl" else None
            yield Workers(dist.get_rank(), dist.get_world_size(), place)
        else:
            yield Workers()
    finally:
        if ours:
            dist.destroy_process_group()
