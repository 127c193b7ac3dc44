"""What an adapter returns: a BlockProgram and the functions that run its nodes on the user's model.

An adapter describes; it never patches, copies or re-parents the user's model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.adapters.own.sites import Site
from l2c_rt.adapters.own.stage import OpenStage
from l2c_rt.families import FROM_UNCOND, Guidance
from l2c_rt.plan.decisions import Dynamic
from l2c_rt.plan.program import BlockProgram


@dataclass(slots=True)
class State:
    """The running values of one evaluation.

    `x` is the residual stream [B, T, D]; `c` the conditioning; `modulation` what the current
    block's adaLN gave (shift, scale, gate for attention, then for the MLP, each [B, D]).  A branch
    with `iterations` runs so often, from `start` where that is given.
    """

    x: Tensor
    t: Any
    y: Any
    c: Any = None
    modulation: tuple[Tensor, ...] = ()
    skips: list[Tensor] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    options: dict[str, Any] = field(default_factory=dict)
    iterations: int = 1
    start: Tensor | None = None


@dataclass(frozen=True, slots=True)
class BranchCode:
    """One branch: its output before the gate, and how an output is added to the stream."""

    compute: Callable[[State], Tensor]
    add: Callable[[State, Tensor], None]


@dataclass(frozen=True, slots=True)
class PublishedLoop:
    """What `sample` needs to know: the published loop of the family.

    Latents are [n, channels, size, size]; labels are 0 .. classes - 1, none where classes is 0.
    They are cut into `tokens` patches of `patch` x `patch`; None where the model takes any number.
    `guidance` is on the first `guided_channels`.
    """

    sampler: str
    null_label: int | None
    classes: int
    channels: int
    size: int
    guided_channels: int
    cfg_scale: float
    guidance: Guidance = FROM_UNCOND
    patch: int = 1
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class FusableAttention:
    """The linears of one attention: packed (qkv,) or separate (q, k, v), and the projection."""

    inputs: tuple[nn.Linear, ...]
    proj: nn.Linear
    heads: int
    scale: float


@dataclass(frozen=True, slots=True)
class FusableMlp:
    """fc1, GELU ("tanh" or "none", which is erf: PyTorch's names), fc2."""

    fc1: nn.Linear
    fc2: nn.Linear
    gelu: str


@dataclass(frozen=True, slots=True)
class FusableBranch:
    """A branch taken apart for a fused backend; `module` is the whole that `inner` stands for.

    `first` is the index of its shift in the block's modulation (shift, scale, gate follow each
    other), or None for a branch without modulation and gate.
    """

    norm: nn.LayerNorm
    inner: FusableAttention | FusableMlp
    module: nn.Module
    block: int
    first: int | None


@dataclass(frozen=True, slots=True)
class OuterLayers:
    """What lies before the first branch and after the last, and the linears of long skips.

    `positions()` is [E + T, D], with E = `prefix_tokens`, which `prefix(t, y)`
    [rows, E, D] gives; `modulation(condition)` [rows, 2 D] is shift and scale of the final norm.
    `channels` are the final linear's, last within a patch.  `after` runs on the predicted image.
    """

    patches: nn.Conv2d
    positions: Callable[[], Tensor]
    norm: nn.LayerNorm
    linear: nn.Linear
    channels: int
    prefix_tokens: int = 0
    prefix: Callable[[Tensor, Tensor | None], Tensor] | None = None
    modulation: Callable[[Any], Tensor] | None = None
    after: nn.Module | None = None
    skip_linears: Mapping[str, nn.Linear] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FusableModel:
    """Every branch taken apart, and the modulation of a block as a function of (t, y).

    `condition(t, y)` gives what `modulation(block, condition)` turns into [rows, 6 D];
    both are None for a model without modulation.  `outer` is None where only the model's own code
    can run them.  `modulation_linears`, where they are known, are the blocks' and then that of
    `outer`: each modulation is its linear of silu(condition), and all share the condition.
    """

    branches: Mapping[str, FusableBranch]
    condition: Callable[[Tensor, Tensor], Any] | None = None
    modulation: Callable[[int, Any], Tensor] | None = None
    outer: OuterLayers | None = None
    modulation_linears: tuple[nn.Linear, ...] = ()

    def modules(self) -> Iterator[nn.Module]:
        """Every module whose own forward a fused backend does not call."""
        for branch in self.branches.values():
            yield branch.norm
            yield from branch.module.modules()
        yield from self.modulation_linears
        if self.outer is not None:
            yield from (self.outer.patches, self.outer.norm, self.outer.linear)
            yield from self.outer.skip_linears.values()


@dataclass(frozen=True)
class BoundModel:
    """A model, described.

    `begin` takes the arguments of the model's forward and computes nothing; `finish` gives the
    model's own return value.  `fusable` is None where a fused backend must not be used, and then
    `why_not_fusable` says why.  `bypassed` are the modules whose own forward is not called, because
    their children are run one by one; `notes` say what of them is therefore not carried out.
    `first_layer` is called with the model's x itself, if its dtype and device are to be checked.
    `sites` say where in the model the branches are.  `open_stage` gives a copy of the model whose
    own forward asks a function at every site; a description with it needs no `fixed` and no
    `branches`, and `begin` then puts "args" and "kwargs" into the state's options, and
    "writes_kept" where the model's code writes to what it is handed.  `refused` says why it stands
    in place of another description; `unproved` why the model's own forward computes something else
    than the program; `unfused_on_gpu` why a GPU's fused kernels are not used though the model is
    fusable.  `dynamic` is the method that decides at run time, where one does; `described` is then
    the adapter's description, beside which the own forward stands.
    """

    model: nn.Module
    program: BlockProgram
    begin: Callable[..., State]
    fixed: Mapping[str, Callable[[State], None]]
    branches: Mapping[str, BranchCode]
    finish: Callable[[State], Any]
    arguments: Callable[[Tensor, Tensor, Tensor | None], dict[str, Any]]
    to_tensor: Callable[[Any], Tensor]
    sampling: PublishedLoop | None = None
    fusable: FusableModel | None = None
    why_not_fusable: str = ""
    bypassed: tuple[nn.Module, ...] = ()
    notes: tuple[str, ...] = ()
    first_layer: nn.Module | None = None
    sites: tuple[Site, ...] = ()
    open_stage: OpenStage | None = None
    refused: str = ""
    unproved: str = ""
    unfused_on_gpu: str = ""
    dynamic: Dynamic | None = None
    described: BoundModel | None = None

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lives."""
        return next(self.model.parameters()).device

    @property
    def checked_loop(self) -> PublishedLoop | None:
        """The loop that the inputs of calls are checked against; None where the model's own forward
        runs, which takes what it takes."""
        return self.sampling if self.open_stage is None else None
