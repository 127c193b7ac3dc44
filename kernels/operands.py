"""Tensors that always travel together, as the kernels and their references take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rows = Tensor | tuple[Tensor, Tensor]
"""A branch's input: a tensor, or values in e4m3 like it and a float32 scale for each row."""


def parts_of(h: Rows | None, unread: Tensor) -> tuple[Tensor, Tensor]:
    """What a kernel is given for h: values and scales, `unread` where there are none."""
    if h is None:
        return unread, unread
    return h if isinstance(h, tuple) else (h, unread)


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
class Weights:
    """What the slots of a list are multiplied by: entry i by `table[counter[0], columns[i]]`, of
    image b, where there are offsets, by that of column `columns[i] + offsets[b]`.

    Shapes: table float32 [S, W]; columns int32 [k]; counter int32 [2], see `Solver`; offsets int32
    [B].
    """

    table: Tensor
    columns: Tensor
    counter: Tensor
    offsets: Tensor | None = None

    def now(self, places: Tensor | None = None) -> Sequence[float | Tensor]:
        """The factors of the evaluation under way; [B, 1, 1] each, where images have their own."""
        columns = self.columns.long()
        if places is None and self.offsets is None:
            numbers: list[float] = self.table[self.counter[0], columns].tolist()
            return numbers
        if self.offsets is not None:
            columns = columns + self.offsets[:, None].long()
        steps = self.counter[:1, None] if places is None else places[:, 1:]
        return self.table[steps.long(), columns][..., None, None].unbind(1)


@dataclass(frozen=True, slots=True)
class Reuses:
    """A run of reuses: slots of one arena and, where branches have gates, the chunk number of each
    gate.  The lists are read on the device and may be empty.  With `weights` a sum of predictions.

    With `places` image b has its outputs at `places[b, 0]` of every slot, where R images have room,
    and is itself at the evaluation `places[b, 1]`, which the weights are of.

    Shapes: arena [N, B, T, D] or [N, B T, D], with places [N, R, T, D], each slot contiguous;
    slots, gates int32 [k]; places int32 [B, 2].
    """

    arena: Tensor
    slots: Tensor
    gates: Tensor | None = None
    weights: Weights | None = None
    places: Tensor | None = None

    def factors(self) -> Sequence[float | Tensor]:
        """What each slot is multiplied by, beside its gate."""
        return [1.0] * len(self.slots) if self.weights is None else self.weights.now(self.places)

    def output(self, slot: int, like: Tensor) -> Tensor:
        """What a slot holds of every image.  Shapes: like and the result [B, T, D]."""
        kept = self.arena[slot]
        return kept.view_as(like) if self.places is None else kept[self.places[:, 0].long()]

    @staticmethod
    def none(x: Tensor) -> Reuses:
        """No reuse at all, without a tensor of its own."""
        empty = x.view(torch.int32).flatten()[:0]
        return Reuses(x[None], empty, empty)


@dataclass(frozen=True, slots=True)
class OperandBank:
    """What a predicted output is scaled and shifted by: at the evaluation under way the tensors
    `bank[index[counter[0], column]]`, a scale less one and a shift.

    Shapes: bank float32 [M, T, D], of which the first is zero; index int32 [S, W, 2], with the
    counter and W of the weights beside it; `column` is one of the W.
    """

    bank: Tensor
    index: Tensor
    column: int

    def now(self, counter: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scale and shift of the evaluation under way, [T, D], or with places of every image's,
        [B, T, D]."""
        step = counter[0] if places is None else places[:, 1].long()
        scale, shift = self.index[step, self.column].long().unbind(-1)
        return self.bank[scale], self.bank[shift]


@dataclass(frozen=True, slots=True)
class Refreshes:
    """How often some tokens of a branch were chosen in the run before the evaluation under way:
    `table[counter[0], column]`.

    Shapes: table int32 [S, number of such branches]; counter int32 [2], see `Solver`.
    """

    table: Tensor
    counter: Tensor
    column: int

    def now(self) -> Tensor:
        """The number, int32 []."""
        return self.table[self.counter[0], self.column]


def weights_of(reuses: Reuses) -> Weights:
    """The list's weights, or tensors in their place that a kernel without weights does not read."""
    slots = reuses.slots
    return Weights(slots, slots, slots) if reuses.weights is None else reuses.weights


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
