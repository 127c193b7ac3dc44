"""A diffusion transformer as a flat list of nodes: what always runs and what can be reused.

Pure data (standard library only).  Adapters write it, plans and costs read it.
All sizes are per image: multiply by the batch, and by two where guidance doubles the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Fixed:
    """A node that runs at every evaluation: an embedder, a long-skip linear, the final layer.

    `conditioning` marks a node that depends on the timestep and the label only, so that a
    backend may compute it for all steps before the run (adaLN's modulation).  `role` says what a
    backend that joins nodes may take it for: "embed", "final", and for long skips
    "skip_save" and "skip_linear"; without one the node can only be called.
    """

    name: str
    macs: int = 0
    weights: int = 0
    activations: int = 0
    kernels: int = 0
    conditioning: bool = False
    role: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """A residual branch f of `x + gate * f(modulate(norm(x)))`: the thing that can be reused.

    `macs` counts the linear layers only, as the L2C paper's tables do; `attention_macs` adds the
    two products with the attention matrix.  `activations` are elements read and written by the
    branch's own kernels, `kernels` their number on the fused path; the row kernel that adds the
    branch and normalises the result is counted by `cost`, since what it reads depends on the plan.
    `nested`: it lies inside the branch before it, so it can be computed only where that one is.
    `iterations`: it is run on its own output so many times at each evaluation of a run, one number
    for all of them or one each; `resumes`: from what it gave at the evaluation before.
    """

    name: str
    kind: str
    block: int
    gated: bool
    macs: int
    weights: int
    activations: int
    kernels: int
    attention_macs: int = 0
    nested: bool = False
    iterations: tuple[int, ...] = ()
    resumes: bool = False

    def iterations_at(self, evaluation: int) -> int:
        """Of a branch that has iterations."""
        return self.iterations[evaluation if len(self.iterations) > 1 else 0]


Node = Fixed | Branch


@dataclass(frozen=True)
class BlockProgram:
    """One evaluation of a model, in execution order.

    `tokens` and `width` are T and D of the residual stream [B, T, D]; a slot holds one
    [B, T, D] tensor.  Raises ValueError for duplicate names or a program without branches.
    """

    family: str
    nodes: tuple[Node, ...]
    tokens: int
    width: int

    def __post_init__(self) -> None:
        counts = Counter(node.name for node in self.nodes)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"program {self.family!r}: node names must be unique, got {twice[:4]}")
        if not self.branches:
            raise ValueError(f"program {self.family!r} has no branch, so nothing can be reused")

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Branch))

    @cached_property
    def branch_names(self) -> tuple[str, ...]:
        return tuple(branch.name for branch in self.branches)

    @cached_property
    def branch_of(self) -> Mapping[str, Branch]:
        return MappingProxyType({branch.name: branch for branch in self.branches})

    @cached_property
    def fixed_of(self) -> Mapping[str, Fixed]:
        fixed = (node for node in self.nodes if isinstance(node, Fixed))
        return MappingProxyType({node.name: node for node in fixed})


def attention_branch(
    block: int, tokens: int, width: int, *, gated: bool, biases: int | None = None
) -> Branch:
    """Self-attention: qkv, softmax(q k^T) v, projection; three kernels on the fused path."""
    return Branch(
        name=f"attn-{block}",
        kind="attn",
        block=block,
        gated=gated,
        macs=4 * tokens * width * width,
        attention_macs=2 * tokens * tokens * width,
        weights=4 * width * width + (4 * width if biases is None else biases),
        activations=10 * tokens * width,
        kernels=3,
    )


def mlp_branch(block: int, tokens: int, width: int, hidden: int, *, gated: bool) -> Branch:
    """Two linears with a GELU between; two kernels on the fused path (GELU in the epilogue)."""
    return Branch(
        name=f"mlp-{block}",
        kind="mlp",
        block=block,
        gated=gated,
        macs=2 * tokens * width * hidden,
        weights=2 * width * hidden + width + hidden,
        activations=2 * tokens * (width + hidden),
        kernels=2,
    )


def linear_node(
    name: str, rows: int, fan_in: int, fan_out: int, *, kernels: int = 1, role: str = ""
) -> Fixed:
    """A linear layer over `rows` tokens that runs at every evaluation."""
    return Fixed(
        name=name,
        macs=rows * fan_in * fan_out,
        weights=fan_in * fan_out + fan_out,
        activations=rows * (fan_in + fan_out),
        kernels=kernels,
        role=role,
    )


def conditioning_node(name: str, fan_in: int, fan_out: int) -> Fixed:
    """A linear of the conditioning vector (adaLN): one row per image, no kernel once tabulated."""
    return Fixed(
        name=name, macs=fan_in * fan_out, weights=fan_in * fan_out + fan_out, conditioning=True
    )
