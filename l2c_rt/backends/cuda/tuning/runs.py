"""Runs a linear layer or an attention by a choice of the tuner.

`kernels` is the Triton functions or their meaning in plain PyTorch (`l2c_rt.kernels.reference`).
Nothing here tracks gradients; callers run it under `torch.no_grad` or in inference mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from l2c_rt.backends.cuda.cublas_lt import LtAlgorithm
from l2c_rt.backends.tuning.problems import AttentionConfig, LinearConfig
from l2c_rt.kernels._launch import AttentionTile, MatrixTile

SDPA_KINDS = ("cudnn", "flash", "efficient", "math")
"""PyTorch's own, by the names of its backends."""


class Kernels(Protocol):
    """What is called, with the signatures of `l2c_rt.kernels.reference`; see `CublasLt.beside`."""

    @property
    def linear(self) -> Callable[..., Any]: ...
    @property
    def split_linear(self) -> Callable[..., Any]: ...
    @property
    def skip_linear(self) -> Callable[..., Any]: ...
    @property
    def attention(self) -> Callable[..., Any]: ...


def run_linear(
    choice: LinearConfig,
    kernels: Kernels,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gelu: str | None,
    out: Tensor,
    workspace: Tensor | None = None,
) -> None:
    """Write gelu(x weight^T + bias) to `out`, which may be a slot.

    Shapes: x [..., K]; weight [N, K]; bias [N]; out [..., N], contiguous; workspace [bytes].
    Raises: ValueError for a choice that does not compute this, or not on this device.
    """
    if choice.kind == "triton":
        kernels.linear(x, weight, bias, gelu=gelu, out=out, tile=_matrix_tile(choice))
    elif choice.kind == "lt" and choice.tile and workspace is not None:
        algorithm = LtAlgorithm(choice.tile, workspace)
        kernels.linear(x, weight, bias, gelu=gelu, out=out, tile=algorithm)
    elif choice.kind == "addmm_activation":
        _refuse_wrong_gelu(x, bias, gelu)
        flat, y = x.view(-1, x.shape[-1]), out.view(-1, out.shape[-1])
        torch.ops.aten._addmm_activation.out(bias, flat, weight.t(), use_gelu=True, out=y)
    elif choice.kind == "addmm":
        flat, y = x.view(-1, x.shape[-1]), out.view(-1, out.shape[-1])
        if bias is None:
            torch.mm(flat, weight.t(), out=y)
        else:
            torch.addmm(bias, flat, weight.t(), out=y)
        if gelu is not None:
            torch.ops.aten.gelu_(y, approximate=gelu)
    else:
        raise ValueError(
            f'run_linear: kind is {choice.kind!r}, wanted "addmm", "addmm_activation", "triton" or '
            '"lt", which needs a workspace; "split" leaves parts and is for run_split'
        )


def run_split(
    choice: LinearConfig,
    kernels: Kernels,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    partial_sums: Tensor,
) -> None:
    """Write the float32 parts whose sum is x weight^T + bias.

    Shapes: x [..., K] with M rows; weight [N, K]; bias [N]; parts [splits, M, N].
    Raises: ValueError for a choice of another kind.
    """
    if choice.kind != "split":
        raise ValueError(f'run_split: kind is {choice.kind!r}, wanted "split"')
    tile = _matrix_tile(choice)
    kernels.split_linear(x, weight, bias, splits=choice.splits, out=partial_sums, tile=tile)


def run_skip_linear(
    choice: LinearConfig,
    kernels: Kernels,
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    """Write [x | skip] weight^T + bias to `out`, which is neither of them.

    Shapes: x, skip, out [..., D], contiguous; weight [D, 2 D]; bias [D].
    Raises: ValueError for a choice that does not compute this.
    """
    if choice.kind == "triton":
        kernels.skip_linear(x, skip, weight, bias, out=out, tile=_matrix_tile(choice))
        return
    if choice.kind != "halves":
        raise ValueError(f'run_skip_linear: kind is {choice.kind!r}, wanted "triton" or "halves"')
    d = x.shape[-1]
    y, first, second = (tensor.view(-1, tensor.shape[-1]) for tensor in (out, skip, x))
    # Rounded once more than the kernel's one sum, as an addition in that dtype is.
    if bias is None:
        torch.mm(first, weight[:, d:].t(), out=y)
    else:
        torch.addmm(bias, first, weight[:, d:].t(), out=y)
    y.addmm_(second, weight[:, :d].t())


def run_attention(
    choice: AttentionConfig,
    kernels: Kernels,
    qkv: Tensor,
    heads: int,
    scale: float | None,
    out: Tensor,
) -> Tensor:
    """The mixed values of packed q, k and v: `out`, where our kernel is chosen, which writes them
    there; a tensor of PyTorch's own where one of its is, since those take no `out`.

    Shapes: qkv [B, T, 3 H F], as [3, H, F] per token; out and result [B, T, H F], contiguous.
    Raises: ValueError for an unknown choice, RuntimeError where PyTorch's backend of that name
    does not take the shapes.
    """
    if choice.kind == "triton":
        tile = None if choice.tile is None else AttentionTile(*choice.tile)
        kernels.attention(qkv, heads, scale, out=out, tile=tile)
        return out
    if choice.kind not in SDPA_KINDS:
        known = ", ".join(('"triton"', *(f'"{kind}"' for kind in SDPA_KINDS)))
        raise ValueError(f"run_attention: kind is {choice.kind!r}, wanted one of {known}")
    b, t, _ = qkv.shape
    q, k, v = qkv.view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = _mixed_by_pytorch(choice.kind, q, k, v, scale)
    # A view but for "math": the others lay their result out as q is.
    return mixed.transpose(1, 2).reshape(b, t, -1)


def _mixed_by_pytorch(kind: str, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """By the operator itself: `torch.nn.attention.sdpa_kernel` sets flags of the whole process, and
    two threads that leave it in another order than they came leave attention switched off.

    Shapes: q, k, v and the result [B, H, T, F].
    """
    ops = torch.ops.aten
    if kind == "cudnn":
        mixed = ops._scaled_dot_product_cudnn_attention(q, k, v, None, False, scale=scale)[0]
    elif kind == "flash":
        mixed = ops._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0]
    elif kind == "efficient":
        mixed = ops._scaled_dot_product_efficient_attention(q, k, v, None, False, scale=scale)[0]
    else:
        mixed = ops._scaled_dot_product_attention_math(q, k, v, scale=scale)[0]
    assert isinstance(mixed, Tensor)
    return mixed


def _matrix_tile(choice: LinearConfig) -> MatrixTile | None:
    return None if choice.tile is None else MatrixTile(*choice.tile)


def _refuse_wrong_gelu(x: Tensor, bias: Tensor | None, gelu: str | None) -> None:
    """The operator has one GELU per device: tanh on CUDA, erf on a CPU."""
    if gelu != "tanh" or bias is None or x.device.type != "cuda":
        raise ValueError(
            f'run_linear: "addmm_activation" adds a bias and is tanh GELU on CUDA only; got gelu '
            f"{gelu!r}, {'no' if bias is None else 'a'} bias, device {x.device}; use "
            '"addmm"'
        )
