"""What a model family's published program fixes: its loop, its router, its training, its sizes.

Standard library only.  A family is data: the next one is one more `Family` in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Guidance:
    """`base + scale * (cond - uncond)`, off at scales up to `neutral`, where it would be cond."""

    base: Literal["cond", "uncond"]
    neutral: float

    def scale_from_uncond(self, scale: float) -> float:
        """The s of `uncond + s (cond - uncond)` that gives the same prediction."""
        return scale + (1.0 - self.neutral)


FROM_UNCOND = Guidance("uncond", neutral=1.0)
FROM_COND = Guidance("cond", neutral=0.0)


@dataclass(frozen=True, slots=True)
class ModelSize:
    """`blocks` counts all of them (U-ViT of depth 28 has 29), `tokens` as the blocks see them."""

    name: str
    blocks: int
    width: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterRules:
    """What a router's rows and scores mean, and how they are learned.

    `calls_per_step` counts the model calls per evaluation; `valid_rows(steps)` is {evaluation that
    may reuse: its row in the router}, noisiest first.  A score above `threshold` computes.  `loss`
    is the objective of learning: the mean of squares over all elements, or their sum per sample and
    its mean over samples; `clamp` bounds the logits while they learn.
    """

    name: str
    display_name: str
    sampler: str
    evaluations_per_solver_step: int = 1
    calls_per_step: int = 1
    threshold: float
    valid_rows: Callable[[int], dict[int, int]]
    loss: Literal["mean", "sum per sample"]
    clamp: float | None

    def router_rows(self, steps: int) -> int:
        """The rows that a router for `steps` evaluations has at least: one per solver step."""
        return steps // self.evaluations_per_solver_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(RouterRules):
    """One family, as published.  In its loop, cond is called before uncond.

    `blocks_beside_depth` are those that the model's `depth` leaves out.
    """

    sampler_display_name: str
    guidance: Guidance
    cfg_scale: float
    published: ModelSize
    blocks_beside_depth: int = 0


def _pairs_from_the_clean_end(steps: int) -> dict[int, int]:
    """DiT's rows count from the clean end; only even ones are trained, odd ones are random."""
    return {n: steps - 1 - n for n in range(1 + steps % 2, steps, 2)}


def _first_stages(steps: int) -> dict[int, int]:
    """U-ViT has one row per solver step, from the noisy end; second stages are always full."""
    return {n: n // 2 for n in range(2, steps, 2)}


def _every_second(steps: int) -> dict[int, int]:
    """Row n is evaluation n; as in the paper, every second one may reuse."""
    return {n: n for n in range(1, steps, 2)}


OWN_LOOP = RouterRules(
    name="own",
    display_name="own-loop",
    sampler="",
    threshold=0.1,
    valid_rows=_every_second,
    loss="mean",
    clamp=5.0,
)
"""Any model in a loop of the user's own."""

DIT = Family(
    name="dit",
    display_name="DiT",
    sampler="ddim",
    sampler_display_name="DDIM",
    evaluations_per_solver_step=1,
    calls_per_step=1,
    guidance=FROM_UNCOND,
    cfg_scale=4.0,
    threshold=0.1,
    valid_rows=_pairs_from_the_clean_end,
    loss="mean",
    clamp=5.0,
    published=ModelSize("DiT-XL/2 256", blocks=28, width=1152, tokens=256),
)

UVIT = Family(
    name="uvit",
    display_name="U-ViT",
    sampler="dpm-solver",
    sampler_display_name="DPM-Solver",
    evaluations_per_solver_step=2,
    calls_per_step=2,
    guidance=FROM_COND,
    cfg_scale=0.4,
    threshold=0.9,
    valid_rows=_first_stages,
    loss="sum per sample",
    clamp=None,
    published=ModelSize("U-ViT-H/2 256", blocks=29, width=1152, tokens=258),
    blocks_beside_depth=1,
)

FAMILIES = {family.name: family for family in (DIT, UVIT)}


def family_named(name: str) -> Family:
    """The family of that name.  Raises ValueError with the known ones for any other."""
    family = FAMILIES.get(name)
    if family is None:
        raise ValueError(f"family is {name!r:.80}, wanted one of {', '.join(FAMILIES)}")
    return family


def rules_named(name: str) -> RouterRules:
    """The rules of routers of a family, or of `OWN_LOOP`.  Raises ValueError for any other name."""
    return OWN_LOOP if name == OWN_LOOP.name else family_named(name)


def cached_evaluations(steps: int, family: str = "") -> tuple[int, ...]:
    """The evaluations at which Learning-to-Cache may reuse: every second, never the first.

    DiT's loop pairs evaluations from the clean end; U-ViT's caches the first stage of each
    second-order solver step; without a family they are the odd ones, as DiT's for even `steps`.
    Source: arXiv 2406.01733, section 3 and appendix B.1.
    """
    rules = family_named(family) if family else OWN_LOOP
    return tuple(rules.valid_rows(steps))


def display_name(name: str) -> str:
    """How a family or sampler is written for readers; a name that is neither stays as it is."""
    for family in FAMILIES.values():
        if name == family.name:
            return family.display_name
        if name == family.sampler:
            return family.sampler_display_name
    return name
