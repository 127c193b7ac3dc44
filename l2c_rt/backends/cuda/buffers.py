"""The static tensors of one session for one input shape: what captured graphs point at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableAttention, FusableMlp, OuterLayers
from l2c_rt.backends.cuda.cuda_parts import FusedModel
from l2c_rt.memory.arena import SlotMemory
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.step_walk import STREAM, slot_of_stream


@dataclass(frozen=True, slots=True)
class Shape:
    """`images` latents [C, H, W] in a model batch of `batch` rows: twice as many with guidance."""

    images: int
    batch: int
    channels: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Buffers:
    """Tensors that a row's launches read and write.

    Shapes: latents, anchor float32 [n, C, H, W]; streams, h, mixed [B, T, D] (`streams` in the
    residual dtype, the rest in the model's); qkv [B, T, 3 D]; hidden [B, T, 4 D]; counter int32
    [2], the evaluation within the window of the tables and a kernel's ticket.  With `places`, see
    `Reuses`, the slots have samples of many requests.
    """

    shape: Shape
    memory: SlotMemory
    streams: dict[str, Tensor]
    latents: Tensor
    anchor: Tensor
    h: Tensor
    qkv: Tensor
    mixed: Tensor
    hidden: Tensor
    counter: Tensor
    places: Tensor | None = None

    @property
    def scratch(self) -> int:
        """The slot behind the plan's, for outputs that nobody reads later."""
        return len(self.memory.slots) - 1

    def stream(self, name: str) -> Tensor:
        """The residual stream of a name, or the slot in which it is kept."""
        slot = slot_of_stream(name)
        return self.streams[name] if slot is None else self.memory.slots[slot]

    def written_over(self, name: str) -> Tensor:
        """Where the last sum goes: over the stream, but not over what is kept of it in a slot."""
        return self.streams[name if slot_of_stream(name) is None else STREAM]

    @property
    def nbytes(self) -> int:
        """Without the slots."""
        tensors = (*self.streams.values(), self.latents, self.anchor, self.h, self.qkv,
                   self.mixed, self.hidden)  # fmt: skip
        return sum(t.numel() * t.element_size() for t in tensors)


def allocate(
    shape: Shape, fused: FusedModel, slots: Slots, streams: tuple[str, ...],
    places: Tensor | None = None,
) -> Buffers:  # fmt: skip
    """Buffers for a shape, slots included; `streams` are the names of the residual streams."""
    outer, like = fused.outer, fused.outer.linear.weight
    b, t, d = shape.batch, tokens_of(outer, shape), outer.norm.normalized_shape[0]
    memory = slots.reserve((b, t, d), like.dtype, like.device)
    inners = [part.inner for part in fused.fusable.branches.values()]
    heads = [3 * i.proj.in_features for i in inners if isinstance(i, FusableAttention)]
    hidden = [i.fc1.out_features for i in inners if isinstance(i, FusableMlp)]
    image = (shape.images, shape.channels, shape.height, shape.width)

    def tokens(width: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(b, t, width, dtype=dtype or like.dtype, device=like.device)

    return Buffers(
        shape=shape,
        memory=memory,
        streams={name: tokens(d, fused.options.residual_dtype) for name in streams},
        latents=torch.zeros(image, dtype=torch.float32, device=like.device),
        anchor=torch.zeros(image, dtype=torch.float32, device=like.device),
        h=tokens(d),
        qkv=tokens(max(heads, default=8)),
        mixed=tokens(max(heads, default=24) // 3),
        hidden=tokens(max(hidden, default=8)),
        counter=torch.zeros(2, dtype=torch.int32, device=like.device),
        places=places,
    )


def tokens_of(outer: OuterLayers, shape: Shape) -> int:
    """T, prefix tokens included.  Raises ValueError where the model has positions for another T."""
    patch = outer.patches.kernel_size[0]
    cut = shape.height % patch == 0 and shape.width % patch == 0
    tokens = outer.prefix_tokens + (shape.height // patch) * (shape.width // patch)
    have = len(outer.positions())
    if not cut or tokens != have or shape.channels != outer.patches.in_channels:
        raise ValueError(
            f"input [{shape.batch}, {shape.channels}, {shape.height}, {shape.width}] does not fit: "
            f"the model takes {outer.patches.in_channels} channels and "
            f"{have - outer.prefix_tokens} patches of {patch} x {patch}"
        )
    return tokens
