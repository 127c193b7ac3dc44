"""Checks of what a kernel is given, before anything is launched or allocated."""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.kernels import operands
from l2c_rt.kernels._launch import MAX_WIDTH
from l2c_rt.kernels.operands import FinalLinear, Modulation, PatchEmbedding, Rows, Solver

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
INT32 = (torch.int32,)
FLOAT32 = (torch.float32,)
E4M3 = (torch.float8_e4m3fn,)

Shape = tuple[int, ...]
Dtypes = tuple[torch.dtype, ...]


def tensor(
    op: str, name: str, got: Tensor, shape: Shape, like: Tensor, dtypes: Dtypes = FLOATS
) -> None:
    """Refuse a tensor of another shape, dtype or device than wanted, or that kernels cannot read
    16 bytes at a time.  A size of -1 in `shape` is free."""
    kind(op, name, got, like, dtypes)
    fits = len(got.shape) == len(shape) and all(
        w in (-1, g) for g, w in zip(got.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{op}: {name} has shape {tuple(got.shape)}, wanted {shape}")
    if not got.is_contiguous():
        raise ValueError(
            f"{op}: {name} has strides {got.stride()}, wanted a contiguous tensor; pass "
            f"{name}.contiguous() or allocate it so"
        )
    if got.dtype != torch.int32:
        aligned(op, name, got)


def rows(op: str, x: Tensor, name: str = "x") -> tuple[int, int, int]:
    """B, T, D of the residual stream, or of what is shaped like it."""
    if not isinstance(x, Tensor) or x.dim() != 3:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{op}: {name} must be [B, T, D], got {got}")
    width(op, x.shape[2])
    tensor(op, name, x, tuple(x.shape), x)
    if not x.numel():
        raise ValueError(f"{op}: {name} {tuple(x.shape)} is empty")
    return x.shape[0], x.shape[1], x.shape[2]


def head(op: str, packed: int, heads: int) -> int:
    """The head dimension of a packed projection."""
    head = packed // (3 * heads) if heads > 0 else 0
    if heads < 1 or packed != 3 * heads * head or head % 8 or not 8 <= head <= 128:
        raise ValueError(
            f"{op}: qkv is {packed} wide for {heads} heads, wanted 3 times a head dimension that "
            "is a multiple of 8 up to 128; use PyTorch's scaled_dot_product_attention"
        )
    return head


def product(
    op: str, x: Tensor, weight: Tensor, bias: Tensor | None, halves: int = 1
) -> tuple[int, int, int]:
    """Rows, columns and inner size of x (and `halves` - 1 tensors like it) times weight^T."""
    if not isinstance(x, Tensor) or x.dim() < 2 or not x.numel():
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{op}: x must be [..., K] with at least one row, got {got}")
    k = x.shape[-1]
    tensor(op, "x", x, tuple(x.shape), x)
    tensor(op, "weight", weight, (-1, halves * k), x, (x.dtype,))
    n = len(weight)
    if k % 8 or n % 8 or not n:
        raise ValueError(f"{op}: {k} columns to {n}, wanted multiples of 8; use PyTorch's linear")
    if bias is not None:
        tensor(op, "bias", bias, (n,), x)
    return x.numel() // k, n, k


def width(op: str, got: int) -> None:
    """D: whole 16-byte vectors, and a row that fits in registers."""
    if got % 8 or not 8 <= got <= MAX_WIDTH:
        raise ValueError(
            f"{op}: width {got} is not a multiple of 8 up to {MAX_WIDTH}; use the reference backend"
        )


def modulation(op: str, got: Modulation, x_shape: Shape, like: Tensor, *chunks: int) -> None:
    """The table and its indices, and that the chunk numbers lie in it."""
    b, _, d = x_shape
    tensor(op, "modulation.table", got.table, (-1, -1, -1, d), like)
    tensor(op, "modulation.rows", got.rows, (b,), like, INT32)
    counter(op, got.counter, like)
    for number in chunks:
        if not 0 <= number < got.table.shape[2]:
            raise ValueError(
                f"{op}: chunk {number} is outside the table's {got.table.shape[2]} chunks"
            )


def affine(op: str, weight: Tensor, bias: Tensor, x: Tensor) -> None:
    """Weight and bias of a norm over the width of x."""
    tensor(op, "weight", weight, (x.shape[-1],), x)
    tensor(op, "bias", bias, (x.shape[-1],), x)


def embedding(
    op: str, got: PatchEmbedding, latents: Tensor, batch: int, prefix: Modulation | None
) -> tuple[int, int, int]:
    """The shape of the tokens that an embedding makes of the latents."""
    n, c, tokens = image(op, latents, got.patch)
    if batch < 1 or batch % n:
        raise ValueError(f"{op}: batch {batch} is not a multiple of the {n} latents")
    width(op, d := got.weight.shape[-1])
    tensor(op, "embedding.weight", got.weight, (c * got.patch**2, d), latents)
    tensor(op, "embedding.bias", got.bias, (d,), latents)
    if prefix is not None:
        tensor(op, "prefix.table", prefix.table, (-1, -1, -1, d), latents)
        tensor(op, "prefix.rows", prefix.rows, (batch,), latents, INT32)
        counter(op, prefix.counter, latents)
        tokens += prefix.table.shape[2]
    tensor(op, "embedding.positions", got.positions, (tokens, d), latents)
    return batch, tokens, d


def embedded_pair(
    op: str, embedding: PatchEmbedding, shape: Shape, out: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """x and h of an embedding: what the caller gave, or new ones in its weight's dtype."""
    weight = embedding.weight
    x, h = (weight.new_empty(shape), weight.new_empty(shape)) if out is None else out
    tensor(op, "out[0]", x, shape, weight)
    tensor(op, "out[1]", h, shape, weight)
    distinct(op, "out[1]", h, "out[0]", x)
    return x, h


def image(op: str, latents: Tensor, patch: int) -> tuple[int, int, int]:
    """n, C and the tokens per image of float32 latents cut into patches."""
    if not isinstance(latents, Tensor) or latents.dim() != 4 or not latents.numel():
        got = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"{op}: latents must be [n, C, H, W], got {got}")
    tensor(op, "latents", latents, tuple(latents.shape), latents, FLOAT32)
    n, c, h, w = latents.shape
    if patch < 1 or h % patch or w % patch:
        raise ValueError(f"{op}: latents of {h} x {w} do not cut into patches of {patch}")
    return n, c, (h // patch) * (w // patch)


def final(op: str, got: FinalLinear, latents: Tensor, x_shape: Shape) -> tuple[int, int]:
    """The number of prefix tokens in x, and of halves in its batch (2 with guidance)."""
    b, t, d = x_shape
    n, c, tokens = image(op, latents, got.patch)
    outputs = len(got.weight)
    tensor(op, "final.weight", got.weight, (outputs, d), latents)
    tensor(op, "final.bias", got.bias, (outputs,), latents)
    if outputs % got.patch**2 or outputs < c * got.patch**2:
        raise ValueError(
            f"{op}: final.weight has {outputs} rows, wanted {got.patch**2} times at least {c}"
        )
    if not 0 <= got.guided <= c:
        raise ValueError(f"{op}: {got.guided} guided channels of {c}")
    if b not in (n, 2 * n) or t < tokens:
        raise ValueError(
            f"{op}: x is {x_shape} for latents {tuple(latents.shape)}, wanted {n} or {2 * n} "
            f"images of at least {tokens} tokens"
        )
    return t - tokens, b // n


def no_prefix(op: str, extras: int) -> None:
    if extras:
        raise ValueError(f"{op}: x has {extras} tokens more than the latents have patches")


def solver(op: str, got: Solver, latents: Tensor, counted: Tensor) -> None:
    """The table, the one counter of a run, and an anchor shaped like the latents."""
    tensor(op, "solver.coefficients", got.coefficients, (-1, 8), latents, FLOAT32)
    counter(op, got.counter, latents)
    if got.counter.data_ptr() != counted.data_ptr():
        raise ValueError(f"{op}: solver.counter and modulation.counter must be one tensor")
    if got.anchor is not None:
        tensor(op, "solver.anchor", got.anchor, tuple(latents.shape), latents, FLOAT32)
        distinct(op, "solver.anchor", got.anchor, "the latents", latents)


def counter(op: str, got: Tensor, like: Tensor) -> None:
    tensor(op, "counter", got, (2,), like, INT32)


def pair(
    op: str, x: Tensor, dtype: torch.dtype, out: tuple[Tensor, Rows] | None
) -> tuple[Tensor, Rows]:
    """x' and h: what the caller gave, or new ones with h in `dtype`."""
    shape = tuple(x.shape)
    if out is None:
        return torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    x_out, h = out
    tensor(op, "out[0]", x_out, shape, x, (x.dtype,))
    branch_input(op, "out[1]", h, x)
    distinct(op, "out[1]", operands.parts_of(h, x)[0], "out[0]", x_out)
    return x_out, h


def branch_input(op: str, name: str, h: Rows, x: Tensor) -> None:
    """h of the shape of x and not in its place, or values in e4m3 with a scale for each row."""
    values, scales = operands.parts_of(h, x)
    tensor(op, name, values, tuple(x.shape), x, FLOATS if h is values else E4M3)
    distinct(op, name, values, "x", x)
    if h is not values:
        tensor(op, f"{name}'s scales", scales, (x.numel() // x.shape[-1],), x, FLOAT32)


def distinct(op: str, name: str, got: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse an output that shares its first element with a tensor still to be read."""
    if got.data_ptr() == other.data_ptr():
        raise ValueError(f"{op}: {name} must not share memory with {other_name}")


def kind(op: str, name: str, got: Tensor, like: Tensor, dtypes: Dtypes) -> None:
    if not isinstance(got, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(got).__name__}")
    if got.dtype not in dtypes:
        names = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise ValueError(f"{op}: {name} is {got.dtype}, wanted {names}; convert it before")
    if got.device != like.device:
        raise ValueError(f"{op}: {name} is on {got.device}, wanted {like.device} like the rest")


def aligned(op: str, name: str, got: Tensor) -> None:
    if got.data_ptr() % 16:
        raise ValueError(
            f"{op}: the address of {name} is not a multiple of 16 bytes, so it cannot be read in "
            "vectors; allocate it on its own or pad its offset"
        )
