"""Fixed Point Diffusion Models: one weight-tied block, iterated as often as a budget says.

As the published program (arXiv 2401.08741) lays them out: DiT blocks before and after, between them
a block that is given its own output and the injection again and again.  What is kept from one
evaluation to the next is its solution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel, BranchCode, State
from l2c_rt.plan.program import BlockProgram, Branch, Fixed, Node

PARTS = (
    "x_embedder", "t_embedder", "y_embedder", "pos_embed", "blocks_pre", "block_pre_projection",
    "block_fixed_point_projection_fc1", "block_fixed_point_projection_act",
    "block_fixed_point_projection_fc2", "block_fixed_point", "blocks_post", "final_layer",
    "unpatchify",
)  # fmt: skip
SOLUTION = "solution"


@dataclass(frozen=True)
class FixedPoint:
    """The adapter: `rt.compile(model, Full(), steps=S, adapter=FixedPoint(iterations))`.

    `iterations` of every evaluation, or of each in execution order (`linear_budget`).  With
    `warm_start` an evaluation begins with the solution of the one before, the published `reuse`;
    then 0 iterations are that solution again.  Without `outer_timestep` the blocks before and after
    are given the label alone.  Defaults are those of the published model class.
    """

    iterations: int | Sequence[int]
    warm_start: bool = False
    outer_timestep: bool = True

    def __call__(self, model: Any) -> BoundModel:
        """Describe a model with the published names.

        Raises TypeError naming what it lacks, ValueError for iterations that are not counts.
        """
        missing = [name for name in PARTS if not hasattr(model, name)]
        if missing:
            raise TypeError(
                f"FixedPoint: {type(model).__name__} has no {', '.join(missing)}: wanted a model "
                "with the names of the published program"
            )
        pre, post = _blocks(model.blocks_pre, "pre"), _blocks(model.blocks_post, "post")
        return BoundModel(
            model=model,
            program=self._program(model, pre, post),
            begin=_begin,
            fixed={
                "embed": partial(_embed, model, self.outer_timestep),
                "injection": partial(_inject, model),
                "final": partial(_final, model),
            } | {name: partial(_outer_block, block) for name, block in (pre | post).items()},
            branches={SOLUTION: BranchCode(partial(_solve, model), _replace)},
            finish=lambda state: state.x,
            arguments=lambda x, t, y: {"x": x, "t": t, "y": y},
            to_tensor=lambda out: out,
            why_not_fusable="a fixed point is iterated by the model's own modules",
            bypassed=(model,),
            first_layer=model.x_embedder,
            unproved="the budget of iterations is not the model's own",
        )  # fmt: skip

    def _program(
        self, model: Any, pre: dict[str, nn.Module], post: dict[str, nn.Module]
    ) -> BlockProgram:
        tokens, width = model.pos_embed.shape[1:]
        node = partial(_node, tokens)
        inner = (
            model.block_fixed_point_projection_fc1, model.block_fixed_point_projection_fc2,
            model.block_fixed_point,
        )  # fmt: skip
        solution = Branch(
            SOLUTION, "fixed point", 0, gated=False, macs=sum(_macs(m, tokens) for m in inner),
            attention_macs=2 * tokens * tokens * width, weights=sum(map(_weights, inner)),
            activations=0, kernels=0, iterations=_counts(self.iterations), resumes=self.warm_start,
        )  # fmt: skip
        nodes: tuple[Node, ...] = (
            node("embed", model.x_embedder, model.t_embedder),
            *(node(name, block) for name, block in pre.items()),
            node("injection", model.block_pre_projection),
            solution,
            *(node(name, block) for name, block in post.items()),
            node("final", model.final_layer),
        )
        return BlockProgram(type(model).__name__, nodes, tokens, width)


def _counts(iterations: int | Sequence[int]) -> tuple[int, ...]:
    counts = (iterations,) if isinstance(iterations, int) else tuple(iterations)
    if not counts or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"FixedPoint: iterations are counts of at least 0, got {iterations!r:.80}")
    return counts


def _blocks(blocks: Any, kind: str) -> dict[str, nn.Module]:
    return {f"{kind}-{i}": block for i, block in enumerate(blocks)}


def _node(tokens: int, name: str, *modules: nn.Module) -> Fixed:
    macs = sum(_macs(module, tokens) for module in modules)
    return Fixed(name, macs=macs, weights=sum(map(_weights, modules)))


def _macs(module: nn.Module, tokens: int) -> int:
    """Of its matrices: those of the conditioning once per image, the others once per token."""
    return sum(
        p.numel() * (1 if "adaLN" in name or name.startswith("mlp.0") else tokens)
        for name, p in module.named_parameters()
        if p.dim() > 1
    )


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _begin(x: Tensor, t: Tensor, y: Tensor) -> State:
    return State(x=x, t=t, y=y)


def _embed(model: Any, outer_timestep: bool, state: State) -> None:
    state.x = model.x_embedder(state.x) + model.pos_embed
    label = model.y_embedder(state.y, model.training)
    state.c = model.t_embedder(state.t) + label
    state.options["outer"] = state.c if outer_timestep else label


def _outer_block(block: Callable[[Tensor, Tensor], Tensor], state: State) -> None:
    state.x = block(state.x, state.options["outer"])


def _inject(model: Any, state: State) -> None:
    state.options["injection"] = model.block_pre_projection(state.x)


def _solve(model: Any, state: State) -> Tensor:
    solution = state.x if state.start is None else state.start
    for _ in range(state.iterations):
        joined = torch.cat([solution, state.options["injection"]], dim=-1)
        hidden = model.block_fixed_point_projection_fc1(joined)
        hidden = model.block_fixed_point_projection_act(hidden)
        hidden = model.block_fixed_point_projection_fc2(hidden)
        solution = model.block_fixed_point(hidden, state.c)
    return solution


def _replace(state: State, solution: Tensor) -> None:
    state.x = solution


def _final(model: Any, state: State) -> None:
    state.x = model.unpatchify(model.final_layer(state.x, state.options["outer"]))
