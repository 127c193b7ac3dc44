"""What a schedule costs on a model: the published one of its family, a size, or a weights file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.checks import check_weights
from l2c_rt.cli.exits import fitting, refuse
from l2c_rt.cli.options import MOST, WIDEST, key_option, num_heads_option
from l2c_rt.families import FAMILIES
from l2c_rt.schedule.shells import is_of_shells

if TYPE_CHECKING:
    from l2c_rt.plan.cost import Cost
    from l2c_rt.plan.program import BlockProgram
    from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model to count."""

    weights: str | None
    num_heads: int | None
    key: str
    depth: int | None
    width: int | None
    tokens: int | None


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--weights, --num-heads, --depth, --width and --tokens, as `model`."""

    @click.option("--weights", metavar="FILE", help="Count the model in this weights file.")
    @num_heads_option
    @key_option
    @click.option("--depth", type=click.IntRange(1, MOST), help="Count a model of this depth.")
    @click.option("--width", type=click.IntRange(4, WIDEST), help="Count a model of this width.")
    @click.option("--tokens", type=click.IntRange(1, WIDEST**2), help="Tokens that its blocks see.")
    @wraps(command)
    def run(
        weights: str | None,
        num_heads: int | None,
        key: str,
        depth: int | None,
        width: int | None,
        tokens: int | None,
        **rest: Any,
    ) -> Any:
        return command(model=ModelOptions(weights, num_heads, key, depth, width, tokens), **rest)

    return run


@dataclass(frozen=True, slots=True)
class CostReport:
    """The costs of a schedule on one model, or why they are not known."""

    model: str = ""
    cost: Cost | None = None
    why_not: str = ""

    def __str__(self) -> str:
        if self.cost is None:
            return f"cost: not known, {self.why_not}"
        cost = self.cost
        half, single = (cost.slot_bytes(batch=2, itemsize=size) / 2**20 for size in (2, 4))
        return "\n".join(
            [
                f"cost on {self.model}, per image, guidance not counted",
                f"  MACs        {_spell(cost.full_macs)} full, {_spell(cost.macs)} cached "
                "(linear layers only, as the paper counts)",
                f"  speed-up    at most {cost.speedup_limit:.3f}x, from the arithmetic left out "
                "(attention included)",
                f"  memory      {cost.num_slots} slots, {half:.1f} MiB in 16 bit, {single:.1f} MiB "
                "in 32 bit, per image with guidance",
            ]
        )

    def fields(self) -> dict[str, Any]:
        """The same for JSON; all counts per image, guidance not counted."""
        if self.cost is None:
            return {"why_not": self.why_not}
        cost = self.cost
        return {
            "model": self.model,
            "full_macs": cost.full_macs,
            "macs": cost.macs,
            "macs_per_evaluation": [e.macs for e in cost.cached],
            "full_attention_macs": sum(e.attention_macs for e in cost.full),
            "attention_macs": sum(e.attention_macs for e in cost.cached),
            "speedup_limit": cost.speedup_limit,
            "slots": cost.num_slots,
            "slot_elements": cost.slot_elements,
        }


def count(schedule: CacheSchedule, model: ModelOptions) -> CostReport:
    """Plan the schedule for that model and count the plan."""
    from l2c_rt.plan.build import build_plan
    from l2c_rt.plan.cost import cost

    counted = _from_weights(schedule, model) if model.weights else _from_size(schedule, model)
    if isinstance(counted, str):
        return CostReport(why_not=counted)
    program, name = counted
    with fitting():
        return CostReport(name, cost(program, build_plan(program, schedule)))


def _from_weights(schedule: CacheSchedule, model: ModelOptions) -> tuple[BlockProgram, str]:
    for option in ("depth", "width", "tokens"):
        if getattr(model, option) is not None:
            refuse(f"--{option}", "the weights file says this; give one or the other")
    assert model.weights is not None
    check_weights(model.weights)
    from l2c_rt.cli.models import load

    loaded = load(model.weights, schedule.family, model.num_heads, model.key)
    return loaded.bound_model.program, model.weights


def _from_size(schedule: CacheSchedule, model: ModelOptions) -> tuple[BlockProgram, str] | str:
    from l2c_rt.plan.published import published_program

    family = FAMILIES.get(schedule.family)
    if family is None and is_of_shells(schedule.branches):
        return "a U-Net's shells have any size; rt.compile(unet, schedule).cost counts those of one"
    if family is None:
        options = ", ".join(f"--family {name}" for name in FAMILIES)
        return f"the file names no model family; give {options} or --weights"
    published, blocks = family.published, schedule.num_branches // 2
    if model.depth is not None:
        blocks = model.depth + family.blocks_beside_depth
    elif model.width is None and blocks != published.blocks:
        return (
            f"no published {family.display_name} has {blocks} blocks; give --width and --tokens, "
            "or --weights"
        )
    size = replace(
        published,
        blocks=blocks,
        width=model.width or published.width,
        tokens=model.tokens or published.tokens,
    )
    name = published.name if size == published else f"a {family.display_name}"
    shape = f"{size.blocks} blocks, width {size.width}, {size.tokens} tokens"
    return published_program(family, size), f"{name} ({shape})"


def _spell(macs: int) -> str:
    for power, unit in ((12, "T"), (9, "G"), (6, "M")):
        if macs >= 10**power:
            return f"{macs / 10**power:.2f} {unit}"
    return str(macs)
