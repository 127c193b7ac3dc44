"""What lies before the first branch and after the last, from the layers themselves.

The model's own code would embed timesteps and labels for the final norm, whose shift and scale are
tabulated.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from l2c_rt.adapters.bound_model import OuterLayers


def embedded(outer: OuterLayers, image: Tensor) -> Tensor:
    """The residual stream at the beginning.  Shapes: image [B, C, H, W], result [B, T, D]."""
    conv, (b, c, height, width) = outer.patches, image.shape
    p = conv.kernel_size[0]
    cut = image.reshape(b, c, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
    # One product: as a convolution it takes three times as long on a small model.
    rows = F.linear(cut.reshape(b, -1, c * p * p), conv.weight.flatten(1), conv.bias)
    return rows.add_(outer.positions())


def image_of(outer: OuterLayers, h: Tensor, size: tuple[int, int]) -> Tensor:
    """The model's image [B, C, *size] from what the final norm gave, [B, T, D]."""
    height, width = size
    b, p, c = len(h), outer.patches.kernel_size[0], outer.channels
    patches = F.linear(h, outer.linear.weight, outer.linear.bias)
    grid = patches.view(b, height // p, width // p, p, p, c)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)
