"""How much a tensor has changed."""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.kernels.reference._outputs import into


def relative_change(now: Tensor, before: Tensor, out: Tensor | None = None) -> Tensor:
    wide = torch.promote_types(now.dtype, torch.float32)
    change = (now - before).abs().mean(dtype=wide) / before.abs().mean(dtype=wide)
    return into(out, change)
