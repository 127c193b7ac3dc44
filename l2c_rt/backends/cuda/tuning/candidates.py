"""The ways of computing a linear layer or an attention: which are worth measuring, and each run.

`kernels` is the Triton functions or their meaning in plain PyTorch (`l2c_rt.kernels.reference`).
Nothing here tracks gradients; callers run it under `torch.no_grad` or in inference mode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from l2c_rt.backends.cuda.cublas_lt import LtAlgorithm, Name
from l2c_rt.backends.cuda.tuning.pruning import MULTIPROCESSORS, Cut, promising
from l2c_rt.backends.tuning.problems import (
    HALF_DTYPES,
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.kernels._launch import (
    ATTENTION_TILES,
    LINEAR_TILES,
    WIDE_TILES,
    AttentionTile,
    MatrixTile,
    attention_tile,
)

SPLITS = (2, 3, 4)
MANY_ROWS = 8192

SDPA_KINDS = ("cudnn", "flash", "efficient", "math")
"""PyTorch's own, by the names of its backends."""


class Kernels(Protocol):
    """What is called, with the signatures of `l2c_rt.kernels.reference`; see `CublasLt.beside`."""

    @property
    def linear(self) -> Callable[..., Any]: ...
    @property
    def split_linear(self) -> Callable[..., Any]: ...
    @property
    def attention(self) -> Callable[..., Any]: ...


def default_linear(problem: LinearProblem, device: str = "cuda") -> LinearConfig:
    """What is used where nothing was measured: cuBLAS, which no tile of ours is known to beat,
    with tanh GELU in its epilogue where that saves two passes over the output."""
    # On a CPU the very same operator computes erf GELU, and it has no erf form on CUDA; its tanh
    # is an approximation, 5e-6 off on an H200, which only half precision hides.
    fused = problem.gelu == "tanh" and problem.bias and device == "cuda"
    fused = fused and problem.dtype in HALF_DTYPES
    return LinearConfig("addmm_activation" if fused else "addmm")


def default_attention(problem: AttentionProblem, device: str = "cuda") -> AttentionConfig:
    """What is used where nothing was measured: our own kernel where it applies, since it reads the
    packed projection and writes the layout of the next one, without a transposed copy."""
    if _kernel_attends(problem):
        # Two bytes per element: the only ones the kernel is chosen for.
        tile = attention_tile(problem.batch * problem.heads, problem.tokens, 2)
        return AttentionConfig("triton", dataclasses.astuple(tile))
    # Whole 16-byte vectors of a head, and no float64: what "efficient" takes.
    vector = 8 if problem.dtype in HALF_DTYPES else 4
    takes = problem.head % vector == 0 and problem.dtype != "float64" and device == "cuda"
    return AttentionConfig("efficient" if takes else "math")


def linear_candidates(
    problem: LinearProblem, device: str = "cuda", algorithms: Sequence[Name] = ()
) -> tuple[LinearConfig, ...]:
    """All that is worth measuring, the default first; `algorithms` are cuBLASLt's for it."""
    configs = [default_linear(problem, device), LinearConfig("addmm")]
    configs += [LinearConfig("lt", name) for name in algorithms]
    # With many rows cuBLAS fills the GPU; our tiles are then worth a compilation each only for
    # the activation that it has no epilogue for.
    if _kernel_multiplies(problem) and (problem.rows <= MANY_ROWS or problem.gelu == "none"):
        cuts = [(tile, 1) for tile in LINEAR_TILES + WIDE_TILES] + _splits(problem)
        configs += [_config(*cut) for cut in promising(problem, cuts)]
    return tuple(dict.fromkeys(configs))


def attention_candidates(
    problem: AttentionProblem, device: str = "cuda"
) -> tuple[AttentionConfig, ...]:
    """All that is worth measuring, the default first."""
    configs = [default_attention(problem, device)]
    if problem.dtype in HALF_DTYPES and problem.head % 8 == 0 and problem.head <= 256:
        configs += [AttentionConfig(kind) for kind in ("cudnn", "flash")]
    if _kernel_attends(problem):
        configs += [
            AttentionConfig("triton", dataclasses.astuple(tile)) for tile in ATTENTION_TILES
        ]
    return tuple(dict.fromkeys(configs))


def _kernel_multiplies(problem: LinearProblem) -> bool:
    # In float32 the kernel multiplies without tensor cores, as the exact result needs.
    aligned = problem.columns % 8 == 0 and problem.inner % 8 == 0
    return problem.dtype in HALF_DTYPES and aligned


def _kernel_attends(problem: AttentionProblem) -> bool:
    return problem.dtype in HALF_DTYPES and problem.head % 8 == 0 and problem.head <= 128


def _config(tile: MatrixTile, splits: int) -> LinearConfig:
    kind = "triton" if splits == 1 else "split"
    return LinearConfig(kind, dataclasses.astuple(tile), splits)


def _splits(problem: LinearProblem) -> list[Cut]:
    """Cuts of the inner dimension, for tiles that leave multiprocessors idle: none that would make
    more than two blocks for each, and so none of a grid that fills them."""
    if not problem.splittable or problem.gelu is not None:
        return []
    cuts = []
    for tile in LINEAR_TILES + WIDE_TILES:
        blocks = tile.count(problem.rows, problem.columns)
        for splits in SPLITS:
            fits = splits <= -(-problem.inner // tile.k) and blocks * splits <= 2 * MULTIPROCESSORS
            if fits:
                cuts.append((tile, splits))
    return cuts


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


def run_attention(
    choice: AttentionConfig,
    kernels: Kernels,
    qkv: Tensor,
    heads: int,
    scale: float | None,
    out: Tensor,
) -> None:
    """Write the mixed values of packed q, k and v to `out`.

    Shapes: qkv [B, T, 3 H F], as [3, H, F] per token; out [B, T, H F], contiguous.
    Raises: ValueError for an unknown choice, RuntimeError where PyTorch's backend of that name
    does not take the shapes.
    """
    if choice.kind == "triton":
        tile = None if choice.tile is None else AttentionTile(*choice.tile)
        kernels.attention(qkv, heads, scale, out=out, tile=tile)
        return
    if choice.kind not in SDPA_KINDS:
        known = ", ".join(('"triton"', *(f'"{kind}"' for kind in SDPA_KINDS)))
        raise ValueError(f"run_attention: kind is {choice.kind!r}, wanted one of {known}")
    b, t, _ = qkv.shape
    q, k, v = qkv.view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = _mixed_by_pytorch(choice.kind, q, k, v, scale)
    # PyTorch's take no `out`: this copy, usually without a transposition, is what these kinds cost
    # beside the kernel, and it is measured with them.
    out.view(b, t, heads, -1).copy_(mixed.transpose(1, 2))


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
