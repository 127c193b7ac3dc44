"""Random arguments for every public kernel function, from a few sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2c_rt.kernels.operands import (
    FinalLinear,
    Modulation,
    OperandBank,
    PatchEmbedding,
    Reuses,
    Solver,
    Weights,
)

Arguments = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """`images` latents in `halves` halves; a grid of patches; k reuses, where they are weighted by
    factors of the image's lane."""

    dtype: torch.dtype = torch.float32
    images: int = 1
    halves: int = 2
    grid: tuple[int, int] = (1, 7)
    width: int = 40
    count: int = 3
    channels: int = 4
    patch: int = 2
    prefix_tokens: int = 2
    heads: int = 2
    empty: bool = False
    weighted: bool = False
    lanes: int = 1

    @property
    def batch(self) -> int:
        return self.images * self.halves

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


class Operands:
    """Random operands, scaled so that no term dominates; a method `_<op>` per operation."""

    def __init__(self, sizes: Sizes) -> None:
        self.s = sizes
        self.generator = torch.Generator().manual_seed(7)
        self.counter = torch.tensor([1, 0], dtype=torch.int32)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or self.s.dtype
        if self.s.empty:
            return torch.empty(shape, dtype=dtype)
        return torch.randn(shape, generator=self.generator).to(dtype)

    def integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator, dtype=torch.int32)

    def x(self, prefix_tokens: int = 0) -> Tensor:
        return self.normal(self.s.batch, prefix_tokens + self.s.tokens, self.s.width)

    def modulation(self, chunks: int = 8) -> Modulation:
        rows = self.s.batch + 1
        table = 0.5 * self.normal(3, rows, chunks, self.s.width)
        return Modulation(table, self.integers(rows, self.s.batch), self.counter)

    def reuses(self, prefix_tokens: int = 0, gated: bool = True) -> Reuses:
        # Slots further apart than they are long, as in an arena with rounded offsets.
        shape = self.s.batch * (prefix_tokens + self.s.tokens), self.s.width
        slots = self.s.count + 2
        arena = self.normal(slots, shape[0] * shape[1] + 8).as_strided(
            (slots, *shape), (shape[0] * shape[1] + 8, shape[1], 1)
        )
        order = torch.randperm(slots, generator=self.generator)[: self.s.count].int()
        gates = self.integers(8, self.s.count) if gated else None
        return Reuses(arena, order, gates, self.weights() if self.s.weighted else None)

    def weights(self) -> Weights:
        width, lanes = self.s.count + 1, self.s.lanes
        table = self.normal(3, lanes * width, dtype=torch.float32)
        of_images = width * self.integers(lanes, self.s.batch)
        # A random lane for each image, and all of them where there are as many.
        of_images[:lanes] = width * torch.arange(lanes, dtype=torch.int32)[: self.s.batch]
        offsets = of_images if lanes > 1 else None
        return Weights(table, self.integers(width, self.s.count), self.counter, offsets)

    def _mix(self) -> Arguments:
        weighted = dataclasses.replace(self.reuses(gated=False), weights=self.weights())
        bank = 0.5 * self.normal(4, self.s.tokens, self.s.width, dtype=torch.float32)
        index = self.integers(4, 6 * self.s.lanes * (self.s.count + 1)).view(3, -1, 2)
        operand = OperandBank(bank, index, self.s.count // 2)
        out = torch.full_like(self.x(), float("nan"))
        return {"reuses": weighted, "out": out, "operand": operand}

    def affine(self) -> Arguments:
        return {"weight": 1 + 0.2 * self.normal(self.s.width), "bias": self.normal(self.s.width)}

    def latents(self) -> Tensor:
        rows, columns = self.s.grid
        shape = (self.s.images, self.s.channels, rows * self.s.patch, columns * self.s.patch)
        return self.normal(*shape, dtype=torch.float32)

    def embedding(self, prefix_tokens: int = 0) -> PatchEmbedding:
        d, pixels = self.s.width, self.s.channels * self.s.patch**2
        weight, bias = 0.3 * self.normal(pixels, d), self.normal(d)
        return PatchEmbedding(
            weight, bias, self.normal(prefix_tokens + self.s.tokens, d), self.s.patch
        )

    def final(self, outputs: int, guided: int) -> FinalLinear:
        rows = outputs * self.s.patch**2
        weight = self.normal(rows, self.s.width) / self.s.width**0.5
        return FinalLinear(weight, self.normal(rows), self.s.patch, guided)

    def ddim(self) -> Solver:
        return Solver(coefficients([(1.1, -0.1), (0.9, -0.3), (1.2, 0.2)], 4.0), self.counter)

    def dpm_solver(self) -> Solver:
        # Even evaluations save their latents as the anchor that odd ones add.
        table = coefficients(
            [(1.6, -0.2, 0.0, 1.0), (0.6, -0.3, 0.9, 0.0), (1.9, -0.4, 0.0, 1.0), (0.8, -0.5, 0.8)],
            1.4,
        )
        return Solver(table, self.counter, self.normal(*self.latents().shape, dtype=torch.float32))

    def _reuse_run(self) -> Arguments:
        return self._reuse_sum() | {"shift": 6, "scale": 2}

    def _reuse_sum(self) -> Arguments:
        return {"x": self.x(), "reuses": self.reuses(), "modulation": self.modulation()}

    def _norm_modulate(self) -> Arguments:
        return {"x": self.x(), "modulation": self.modulation(), "shift": 0, "scale": 7}

    def _gate_residual(self) -> Arguments:
        return {"x": self.x(), "y": self.x(), "modulation": self.modulation(), "gate": 5}

    def _gate_residual_norm_modulate(self) -> Arguments:
        return self._gate_residual() | {"shift": 3, "scale": 1}

    def partial_sums(self) -> Arguments:
        rows = self.s.batch * self.s.tokens
        return {"partial_sums": self.normal(3, rows, self.s.width, dtype=torch.float32)}

    def _split_gate_residual_norm_modulate(self) -> Arguments:
        return self._gate_residual_norm_modulate() | self.partial_sums()

    def _split_sum(self) -> Arguments:
        return self.partial_sums() | {"out": torch.full_like(self.x(), float("nan"))}

    def _reuse_run_norm(self) -> Arguments:
        return self._ungated_reuse_sum() | self.affine()

    def _ungated_reuse_sum(self) -> Arguments:
        return {"x": self.x(), "reuses": self.reuses(gated=False)}

    def _norm(self) -> Arguments:
        return {"x": self.x()} | self.affine()

    def _residual_norm(self) -> Arguments:
        return {"x": self.x(), "y": self.x()} | self.affine()

    def _split_residual_norm(self) -> Arguments:
        return self._residual_norm() | self.partial_sums()

    def _patch_embed(self) -> Arguments:
        prefix_tokens = self.s.prefix_tokens
        prefix = self.modulation(prefix_tokens) if prefix_tokens else None
        embedding = self.embedding(prefix_tokens)
        latents, batch = self.latents(), self.s.batch
        return {"latents": latents, "embedding": embedding, "batch": batch, "prefix": prefix}

    def _patch_embed_norm(self) -> Arguments:
        return self._patch_embed() | self.affine()

    def _patch_embed_norm_modulate(self) -> Arguments:
        embedded = {"latents": self.latents(), "embedding": self.embedding()}
        tail = {"modulation": self.modulation(), "shift": 4, "scale": 5}
        return embedded | {"batch": self.s.batch} | tail

    def _final_update(self) -> Arguments:
        final = self.final(2 * self.s.channels, min(3, self.s.channels))
        return self._reuse_run() | {
            "final": final,
            "latents": self.latents(),
            "solver": self.ddim(),
        }

    def _reuse_evaluation(self) -> Arguments:
        from_x = self._final_update()
        del from_x["x"]
        return from_x | {"embedding": self.embedding()}

    def _final_update_norm(self) -> Arguments:
        stream = {
            "x": self.x(self.s.prefix_tokens),
            "reuses": self.reuses(self.s.prefix_tokens, gated=False),
        }
        final = self.final(self.s.channels, self.s.channels)
        solving = {"final": final, "latents": self.latents(), "solver": self.dpm_solver()}
        return stream | self.affine() | solving

    def _guided_update(self) -> Arguments:
        latents = self.latents()
        eps = self.normal(self.s.batch, 2 * self.s.channels, *latents.shape[2:])
        guided = min(3, self.s.channels)
        return {"eps": eps, "latents": latents, "solver": self.dpm_solver(), "guided": guided}

    def _attention(self) -> Arguments:
        head = self.s.width // self.s.heads
        qkv = self.normal(self.s.batch, self.s.tokens, 3 * self.s.heads * head)
        return {"qkv": qkv, "heads": self.s.heads}

    def product(self, inner: int, columns: int) -> Arguments:
        weight = self.normal(columns, inner) / inner**0.5
        return {"x": self.x(), "weight": weight, "bias": self.normal(columns)}

    def _linear(self) -> Arguments:
        return self.product(self.s.width, 3 * self.s.width) | {"gelu": "tanh"}

    def _split_linear(self) -> Arguments:
        return self.product(self.s.width, self.s.width) | {"splits": 2}

    def _skip_linear(self) -> Arguments:
        return self.product(2 * self.s.width, self.s.width) | {"skip": self.x()}


def coefficients(rows: Sequence[tuple[float, ...]], scale: float) -> torch.Tensor:
    """A solver's table of (a, b, c, save) with the guidance scale.  Shapes: [S, 8]."""
    table = torch.zeros(len(rows), 8)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = torch.tensor(values)
    table[:, 4] = scale
    return table
