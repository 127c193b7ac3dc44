"""Tensors that always travel together, as the kernels and their references take them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Modulation:
    """Rows of shift, scale and gate that a kernel looks up itself.

    At the evaluation under way, image b uses `table[counter[0], rows[b]]`: what a captured graph
    holds are addresses, so one graph serves every step.

    Shapes: table [S, R, C, D]; rows int32 [B]; counter int32 [2], see `Solver`.
    """

    table: Tensor
    rows: Tensor
    counter: Tensor

    def chunk(self, number: int) -> Tensor:
        """One chunk of every image's row.  Shapes: [B, D]."""
        return self.table[self.counter[0], self.rows.long(), number]


@dataclass(frozen=True, slots=True)
class Reuses:
    """A run of reuses: slots of one arena and, where branches have gates, the chunk number of each
    gate.  The lists are read on the device and may be empty.

    Shapes: arena [N, B, T, D] or [N, B T, D], each slot contiguous; slots, gates int32 [k].
    """

    arena: Tensor
    slots: Tensor
    gates: Tensor | None = None

    @staticmethod
    def none(x: Tensor) -> Reuses:
        """No reuse at all, without a tensor of its own."""
        empty = x.view(torch.int32).flatten()[:0]
        return Reuses(x[None], empty, empty)


@dataclass(frozen=True, slots=True)
class PatchEmbedding:
    """The linear from a patch to a token, and the position table.

    Shapes: weight [C * P * P, D], the convolution's weight flattened and transposed (rows are
    channel, row, column); bias [D]; positions [T, D], prefix tokens first where there are any.
    """

    weight: Tensor
    bias: Tensor
    positions: Tensor
    patch: int


@dataclass(frozen=True, slots=True)
class FinalLinear:
    """The linear from a token to its patch; the first `guided` channels take part in guidance.

    Shapes: weight [P * P * K, D], bias [P * P * K], with the K >= C output channels last within
    a patch.  Channels past the latents' C (a learned variance) are never computed.
    """

    weight: Tensor
    bias: Tensor
    patch: int
    guided: int


@dataclass(frozen=True, slots=True)
class Solver:
    """A solver's update, read on the device from a table.

    Row `counter[0]` of `coefficients` holds (a, b, c, save, s, 0, 0, 0):
    `latents' = a * latents + b * eps + c * anchor`, and where save is not 0 the latents before
    the update become the anchor.  eps is `uncond + s (cond - uncond)`.

    counter[0] is the evaluation under way: set it to 0 before a run; the kernel that ends an
    evaluation adds 1.  counter[1] is that kernel's ticket, 0 between kernels.

    Shapes: coefficients float32 [S, 8]; counter int32 [2]; anchor like the latents, or None
    where no row uses it.
    """

    coefficients: Tensor
    counter: Tensor
    anchor: Tensor | None = None
