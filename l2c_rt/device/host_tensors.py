"""Numbers of the host on their way to a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def host_tensor(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers in memory of the host from which a copy to the device need not be waited for."""
    tensor = torch.tensor(values, dtype=dtype, device="cpu")
    return tensor.pin_memory() if device.type == "cuda" else tensor
