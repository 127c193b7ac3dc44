"""The published sizes as programs, so that `inspect` can count them without torch.

The adapters describe the models themselves; a test holds the two descriptions together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
class Size:
    """`blocks` counts all of them (U-ViT of depth 28 has 29), `tokens` as the blocks see them."""

    name: str
    blocks: int
    width: int
    tokens: int


PUBLISHED = {
    "dit": Size("DiT-XL/2 256", 28, 1152, 256),
    "uvit": Size("U-ViT-H/2 256", 29, 1152, 258),
}


def program_of(family: str, size: Size) -> BlockProgram:
    """The program of a model of this family and size."""
    nodes = {"dit": _dit_nodes, "uvit": _uvit_nodes}[family](size)
    return BlockProgram(family, tuple(nodes), size.tokens, size.width)


def _dit_nodes(size: Size) -> list[Node]:
    width, tokens = size.width, size.tokens
    time_embedder = FREQUENCIES * width + width * width
    embed = linear_node("embed", tokens, PATCH_VALUES, width, role="embed")
    nodes: list[Node] = [_with(embed, time_embedder)]
    for i in range(size.blocks):
        nodes.append(conditioning_node(f"modulation-{i}", width, 6 * width))
        nodes.append(attention_branch(i, tokens, width, gated=True))
        nodes.append(mlp_branch(i, tokens, width, 4 * width, gated=True))
    # Noise and variance, so twice the values of a patch.
    final = linear_node("final", tokens, width, 2 * PATCH_VALUES, role="final")
    return [*nodes, _with(final, 2 * width * width)]


def _uvit_nodes(size: Size) -> list[Node]:
    width, tokens = size.width, size.tokens
    half = size.blocks // 2
    nodes: list[Node] = [linear_node("embed", tokens, PATCH_VALUES, width, role="embed")]
    for i in range(size.blocks):
        if i > half:
            nodes.append(
                linear_node(f"skip-linear-{i}", tokens, 2 * width, width, role="skip_linear")
            )
        nodes.append(attention_branch(i, tokens, width, gated=False, biases=width))
        nodes.append(mlp_branch(i, tokens, width, 4 * width, gated=False))
        if i < half:
            nodes.append(Fixed(f"skip-save-{i}", role="skip_save"))
    return [*nodes, linear_node("final", tokens, width, PATCH_VALUES, role="final")]


def _with(node: Fixed, weights: int) -> Fixed:
    """Add the conditioning's linears of one row per image, whose MACs equal their weights.

    The weights themselves are read before the run, not at every evaluation.
    """
    return replace(node, macs=node.macs + weights)
