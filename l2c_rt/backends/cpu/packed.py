"""oneDNN's products with packed weights, through operators that PyTorch keeps to itself.

They may go or change with any version, so `why_not` looks whether they are there, and whoever uses
them compares a product with PyTorch's own before the first one counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)
"""Those that oneDNN packs wherever it is built in; float64 it does not know."""


def why_not_here() -> str:
    """Why this PyTorch has no packed products, or nothing."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "oneDNN is not built in"
    if not torch.backends.mkldnn.enabled:
        return "oneDNN is switched off"
    for name in ("_reorder_linear_weight", "_linear_pointwise"):
        if not hasattr(torch.ops.mkldnn, name):
            return f"torch {torch.__version__} has no mkldnn.{name}"
    return ""


def why_not_narrow(model: nn.Module) -> str:
    """Why the products of a model cannot be bfloat16 in place of float32, or nothing."""
    first = next(model.parameters())
    if first.device.type != "cpu":
        return f"the model is on {first.device}, where it can be cast, as in model.bfloat16()"
    if first.dtype != torch.float32:
        return f"the model is {str(first.dtype).removeprefix('torch.')}, wanted float32"
    if why_not := why_not_here():
        return why_not
    instructions = (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)
    if not any(has() for has in instructions):
        return "this CPU has no instructions for bfloat16"
    return ""


def why_not_packed(module: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Why a linear's weight cannot be packed, or nothing.  `dtype` is that of the copy, None for
    the weight's own."""
    if type(module).forward is not nn.Linear.forward or "forward" in vars(module):
        return f"{type(module).__name__} has a forward of its own"
    weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
    if weight is None:
        return "its weight is computed at every call"
    for tensor in (weight, bias):
        if tensor is not None and type(tensor) not in (nn.Parameter, Tensor):
            return f"its weight is a {type(tensor).__name__}"
    if weight.device.type != "cpu" or weight.layout != torch.strided:
        return f"its weight is {weight.layout} on {weight.device}"
    if weight.dtype not in DTYPES or (dtype or weight.dtype) not in DTYPES:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    if bias is not None and bias.dtype != weight.dtype:
        return "its bias has another dtype than its weight"
    return "" if weight.numel() else "its weight is empty"


def pack(weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A copy of a weight in oneDNN's layout, the same for every number of rows.

    Shapes: weight [N, K].  Raises RuntimeError where oneDNN cannot.
    """
    plain = weight.detach().to(dtype or weight.dtype).contiguous()
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(plain)
    return packed


def packed_bytes(packed: Tensor) -> int:
    """Memory of a packed weight."""
    return int(torch.ops.mkldnn._nbytes(packed))


def packed_product(x: Tensor, packed: Tensor, bias: Tensor | None, gelu: str | None) -> Tensor:
    """gelu(x weight^T + bias), a new tensor.

    `gelu` is PyTorch's `approximate`, None for no activation.
    Shapes: x [..., K], any strides; bias [N]; result [..., N].  Dtypes: all the packed weight's.
    """
    attr, algorithm = ("none", "") if gelu is None else ("gelu", gelu)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, attr, [], algorithm)
    return out
