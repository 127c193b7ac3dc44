"""The meaning of every kernel in plain PyTorch: same names, same signatures, no triton.

Written in the dtype of its inputs, so that float64 inputs give the ground truth and bf16 inputs
give what eager PyTorch would have rounded to.  `tile` says how a kernel is cut and changes nothing
here; validation is the kernels' business.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.kernels._launch import AttentionTile, MatrixTile, RowTile
from l2c_rt.kernels.operands import FinalLinear, Modulation, PatchEmbedding, Reuses, Solver

Pair = tuple[Tensor, Tensor]


def norm_modulate(
    x: Tensor,
    modulation: Modulation,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    shifts, scales = modulation.chunk(shift)[:, None], modulation.chunk(scale)[:, None]
    h = F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scales) + shifts
    return _into(out, h.to(modulation.table.dtype if out is None else out.dtype))


def reuse_sum(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    total = x
    assert reuses.gates is not None
    for slot, gate in zip(reuses.slots.tolist(), reuses.gates.tolist(), strict=True):
        total = total + modulation.chunk(gate)[:, None] * reuses.arena[slot].view_as(x)
    return _into(out, total.to(x.dtype))


def reuse_run(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    total = reuse_sum(x, reuses, modulation)
    h = norm_modulate(total, modulation, shift, scale, eps).to(reuses.arena.dtype)
    return _into_both(out, total, h)


def gate_residual(
    x: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    return _into(out, (x + modulation.chunk(gate)[:, None] * y).to(x.dtype))


def gate_residual_norm_modulate(
    x: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    total = gate_residual(x, y, modulation, gate)
    h = norm_modulate(total, modulation, shift, scale, eps).to(y.dtype)
    return _into_both(out, total, h)


def split_sum(parts: Tensor, out: Tensor, tile: RowTile | None = None) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return _into(out, total.view_as(out).to(out.dtype))


def split_gate_residual_norm_modulate(
    x: Tensor,
    parts: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    split_sum(parts, y)
    return gate_residual_norm_modulate(x, y, modulation, gate, shift, scale, eps, out)


def norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    wide = torch.promote_types(x.dtype, weight.dtype)
    h = F.layer_norm(x.to(wide), x.shape[-1:], weight.to(wide), bias.to(wide), eps)
    return _into(out, h.to(weight.dtype if out is None else out.dtype))


def ungated_reuse_sum(
    x: Tensor,
    reuses: Reuses,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    total = x
    for slot in reuses.slots.tolist():
        total = total + reuses.arena[slot].view_as(x)
    return _into(out, total.to(x.dtype))


def reuse_run_norm(
    x: Tensor,
    reuses: Reuses,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    total = ungated_reuse_sum(x, reuses)
    return _into_both(out, total, norm(total, weight, bias, eps).to(reuses.arena.dtype))


def residual_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    total = (x + y).to(x.dtype)
    return _into_both(out, total, norm(total, weight, bias, eps).to(y.dtype))


def split_residual_norm(
    x: Tensor,
    parts: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    split_sum(parts, y)
    return residual_norm(x, y, weight, bias, eps, out)


def patch_embed(
    latents: Tensor,
    embedding: PatchEmbedding,
    batch: int,
    prefix: Modulation | None = None,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    p, weight = embedding.patch, embedding.weight
    patches = F.unfold(latents, p, stride=p).transpose(1, 2).to(weight.dtype)
    tokens = F.linear(patches, weight.t(), embedding.bias)
    tokens = tokens.repeat(batch // len(latents), 1, 1)
    if prefix is not None:
        extras = [prefix.chunk(i) for i in range(prefix.table.shape[2])]
        tokens = torch.cat([torch.stack(extras, dim=1).to(tokens.dtype), tokens], dim=1)
    x = tokens + embedding.positions
    return _into(out, x.to(weight.dtype if out is None else out.dtype))


def patch_embed_norm(
    latents: Tensor,
    embedding: PatchEmbedding,
    batch: int,
    weight: Tensor,
    bias: Tensor,
    prefix: Modulation | None = None,
    eps: float = 1e-5,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    x = patch_embed(latents, embedding, batch, prefix)
    return _into_both(out, x, norm(x, weight, bias, eps))


def patch_embed_norm_modulate(
    latents: Tensor,
    embedding: PatchEmbedding,
    batch: int,
    modulation: Modulation,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    x = patch_embed(latents, embedding, batch)
    return _into_both(out, x, norm_modulate(x, modulation, shift, scale, eps))


def guided_update(
    eps: Tensor,
    latents: Tensor,
    solver: Solver,
    guided: int,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    n, channels = latents.shape[:2]
    a, b, c, save, scale = solver.coefficients[solver.counter[0], :5].to(latents.dtype)
    noise = eps[:n, :channels].to(latents.dtype)
    if len(eps) == 2 * n:
        uncond = eps[n:, :guided].to(latents.dtype)
        mixed = uncond + scale * (noise[:, :guided] - uncond)
        noise = torch.cat([mixed, noise[:, guided:]], dim=1)
    update = a * latents + b * noise
    if c != 0:
        assert solver.anchor is not None
        update = update + c * solver.anchor
    if save != 0:
        assert solver.anchor is not None
        solver.anchor.copy_(latents)
    solver.counter[0] += 1
    return _into(out, update)


def final_update(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    shift: int,
    scale: int,
    final: FinalLinear,
    latents: Tensor,
    solver: Solver,
    eps: float = 1e-6,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    total = reuse_sum(x, reuses, modulation)
    h = norm_modulate(total, modulation, shift, scale, eps)
    return _finish(h, final, latents, solver, out)


def final_update_embed(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    shift: int,
    scale: int,
    final: FinalLinear,
    latents: Tensor,
    solver: Solver,
    embedding: PatchEmbedding,
    eps: float = 1e-6,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    moved = final_update(x, reuses, modulation, shift, scale, final, latents, solver, eps)
    return _into_both(out, moved, patch_embed(moved, embedding, len(x)).to(x.dtype))


def reuse_evaluation(
    latents: Tensor,
    embedding: PatchEmbedding,
    reuses: Reuses,
    modulation: Modulation,
    shift: int,
    scale: int,
    final: FinalLinear,
    solver: Solver,
    eps: float = 1e-6,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    x = patch_embed(latents, embedding, len(modulation.rows))
    return final_update(x, reuses, modulation, shift, scale, final, latents, solver, eps, out)


def final_update_norm(
    x: Tensor,
    reuses: Reuses,
    weight: Tensor,
    bias: Tensor,
    final: FinalLinear,
    latents: Tensor,
    solver: Solver,
    eps: float = 1e-5,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    h = norm(ungated_reuse_sum(x, reuses), weight, bias, eps)
    patches = latents.shape[2] * latents.shape[3] // final.patch**2
    return _finish(h[:, x.shape[1] - patches :], final, latents, solver, out)


def attention(
    qkv: Tensor,
    heads: int,
    scale: float | None = None,
    out: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    b, t, packed = qkv.shape
    q, k, v = qkv.view(b, t, 3, heads, packed // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return _into(out, mixed.transpose(1, 2).reshape(b, t, packed // 3))


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gelu: str | None = None,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    y = F.linear(x, weight, bias)
    return _into(out, y if gelu is None else F.gelu(y, approximate=gelu))


def split_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    splits: int = 2,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    # Where the cuts lie is the kernel's affair: only the sum over the first axis is the contract.
    whole = F.linear(x, weight, bias).flatten(0, -2)
    parts = torch.zeros(splits, *whole.shape, dtype=whole.dtype, device=whole.device)
    parts[0] = whole
    return _into(out, parts)


def skip_linear(
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    return _into(out, F.linear(torch.cat([x, skip], dim=-1), weight, bias))


def _finish(
    h: Tensor, final: FinalLinear, latents: Tensor, solver: Solver, out: Tensor | None
) -> Tensor:
    tokens = F.linear(h.to(final.weight.dtype), final.weight, final.bias)
    b, t, outputs = tokens.shape
    p, columns = final.patch, latents.shape[3] // final.patch
    patches = tokens.view(b, t // columns, columns, p, p, outputs // p**2)
    image = patches.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, *latents.shape[2:])
    return guided_update(image, latents, solver, final.guided, out)


def _into(out: Tensor | None, value: Tensor) -> Tensor:
    return value if out is None else out.copy_(value.view_as(out))


def _into_both(out: Pair | None, x: Tensor, h: Tensor) -> Pair:
    return (x, h) if out is None else (out[0].copy_(x), out[1].copy_(h))
