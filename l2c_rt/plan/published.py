"""The published architectures as programs, built from sizes alone, without torch.

Adapters read the sizes off a model, `inspect` takes the published ones; both build here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from l2c_rt.families import DIT, UVIT, Family, ModelSize
from l2c_rt.plan.program import (
    BlockProgram,
    Fixed,
    Node,
    attention_branch,
    conditioning_node,
    linear_node,
    mlp_branch,
)

PATCH_VALUES = 16
"""Inputs of one token: patches of 2 x 2 with 4 latent channels."""
FREQUENCIES = 256


@dataclass(frozen=True, slots=True)
class UViTBlock:
    """`hidden` is the MLP's width; the skips say whether the block's output is saved for a later
    block, and whether an earlier one's is merged into its input."""

    hidden: int
    attention_biases: int
    saves_skip: bool = False
    merges_skip: bool = False


def dit_program(
    hidden: Sequence[int],
    *,
    width: int,
    tokens: int,
    patch_values: int = PATCH_VALUES,
    out_values: int = 2 * PATCH_VALUES,
    frequencies: int = FREQUENCIES,
    embedder_per_block: bool = False,
) -> BlockProgram:
    """A DiT whose block i has an MLP of width `hidden[i]`.

    `patch_values` and `out_values` are those of one token before and after; `out_values` holds
    noise and variance where both are predicted.  `embedder_per_block` is diffusers' layout, in
    which every block and the final layer embed the timestep on their own.
    """
    embedder = frequencies * width + width * width
    embed = linear_node("embed", tokens, patch_values, width, role="embed")
    final = linear_node("final", tokens, width, out_values, role="final")
    nodes: list[Node] = [embed if embedder_per_block else _conditioned(embed, embedder)]
    for i, size in enumerate(hidden):
        modulation = conditioning_node(f"modulation-{i}", width, 6 * width)
        if embedder_per_block:
            modulation = replace(
                modulation, macs=modulation.macs + embedder, weights=modulation.weights + embedder
            )
        attention = attention_branch(i, tokens, width, gated=True)
        nodes += [modulation, attention, mlp_branch(i, tokens, width, size, gated=True)]
    nodes.append(_conditioned(final, 2 * width * width + embedder * embedder_per_block))
    return BlockProgram(DIT.name, tuple(nodes), tokens, width)


def uvit_program(
    blocks: Sequence[UViTBlock],
    *,
    width: int,
    tokens: int,
    patch_values: int = PATCH_VALUES,
    out_values: int = PATCH_VALUES,
) -> BlockProgram:
    """A U-ViT; `tokens` counts the prefix, `patch_values` and `out_values` are one token's."""
    nodes: list[Node] = [linear_node("embed", tokens, patch_values, width, role="embed")]
    for i, block in enumerate(blocks):
        if block.merges_skip:
            name = f"skip-linear-{i}"
            nodes.append(linear_node(name, tokens, 2 * width, width, role="skip_linear"))
        biases = block.attention_biases
        nodes.append(attention_branch(i, tokens, width, gated=False, biases=biases))
        nodes.append(mlp_branch(i, tokens, width, block.hidden, gated=False))
        if block.saves_skip:
            nodes.append(Fixed(f"skip-save-{i}", role="skip_save"))
    nodes.append(linear_node("final", tokens, width, out_values, role="final"))
    return BlockProgram(UVIT.name, tuple(nodes), tokens, width)


def published_program(family: Family, size: ModelSize) -> BlockProgram:
    """The program of a model of this family and size, all else as published."""
    return _PROGRAMS[family.name](size)


def _published_dit(size: ModelSize) -> BlockProgram:
    return dit_program((4 * size.width,) * size.blocks, width=size.width, tokens=size.tokens)


def _published_uvit(size: ModelSize) -> BlockProgram:
    half = size.blocks // 2
    blocks = [
        UViTBlock(4 * size.width, size.width, saves_skip=i < half, merges_skip=i > half)
        for i in range(size.blocks)
    ]
    return uvit_program(blocks, width=size.width, tokens=size.tokens)


_PROGRAMS: Mapping[str, Callable[[ModelSize], BlockProgram]] = {
    DIT.name: _published_dit,
    UVIT.name: _published_uvit,
}


def _conditioned(node: Fixed, weights: int) -> Fixed:
    """Add the conditioning's linears of one row per image, whose MACs equal their weights.

    The weights themselves are read before the run, not at every evaluation.
    """
    return replace(node, macs=node.macs + weights)
