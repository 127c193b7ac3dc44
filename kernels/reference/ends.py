"""The kernels at both ends of an evaluation: embedding, final layer, guidance, solver."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.kernels._launch import RowTile
from l2c_rt.kernels.operands import FinalLinear, Modulation, PatchEmbedding, Reuses, Solver
from l2c_rt.kernels.reference._outputs import Pair, into, into_pair
from l2c_rt.kernels.reference.rows import (
    modulated,
    normalised,
    reuse_sum,
    ungated_reuse_sum,
)


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
    return into(out, x.to(weight.dtype if out is None else out.dtype))


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
    return into_pair(out, x, normalised(x, weight, bias, eps).to(weight.dtype))


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
    h = modulated(x, modulation, shift, scale, eps).to(modulation.table.dtype)
    return into_pair(out, x, h)


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
    return into(out, update)


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
    h = modulated(total, modulation, shift, scale, eps).to(modulation.table.dtype)
    return _finish(h, final, latents, solver, out)


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
    h = normalised(ungated_reuse_sum(x, reuses), weight, bias, eps).to(weight.dtype)
    patches = latents.shape[2] * latents.shape[3] // final.patch**2
    return _finish(h[:, x.shape[1] - patches :], final, latents, solver, out)


def _finish(
    h: Tensor, final: FinalLinear, latents: Tensor, solver: Solver, out: Tensor | None
) -> Tensor:
    tokens = F.linear(h.to(final.weight.dtype), final.weight, final.bias)
    b, t, outputs = tokens.shape
    p, columns = final.patch, latents.shape[3] // final.patch
    patches = tokens.view(b, t // columns, columns, p, p, outputs // p**2)
    image = patches.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, *latents.shape[2:])
    return guided_update(image, latents, solver, final.guided, out)
