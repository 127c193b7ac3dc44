"""A linear layer of rows and weights in e4m3: PyTorch's own product with a scale per row of each.

    y = scales[row] * weight_scales[column] * (values weight^T) + bias

Needs sm_89, and 16 columns or a multiple on either side.
Shapes: values e4m3 [..., K], scales float32 [rows]; weight e4m3 [N, K], weight_scales float32 [N];
bias bf16 [N]; y bf16 [..., N].
"""

from __future__ import annotations

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor]
"""Values in e4m3 and a scale for each row, as `quantize_rows` gives them."""


def scaled_linear(x: Rows, weight: Rows, bias: Tensor | None, out: Tensor) -> Tensor:
    """The product, in `out`."""
    values, scales = x[0].view(-1, x[0].shape[-1]), x[1].view(-1, 1)
    # Sums stay in the tensor cores' accumulators, as in every fp8 inference: exact ones cost more
    # than fp8 gains.
    torch.ops.aten._scaled_mm.out(
        values, weight[0].t(), scales, weight[1].view(1, -1), bias, None, torch.bfloat16, True,
        out=out.view(-1, out.shape[-1]),
    )  # fmt: skip
    return out
