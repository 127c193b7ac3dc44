"""What decides a learned router, checked and filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.arguments import check_arguments
from l2c_rt.families import OWN_LOOP, Family, RouterRules, family_named
from l2c_rt.schedule.checks import check_granularity

DEFAULT_REUSE = 0.45
DEFAULT_BATCH = 4
DEFAULT_VISITS = 120
"""How often every row of the router is trained, unless `iterations` says otherwise."""

LARGEST_LR = 0.3
PUBLISHED_LR = 1e-3


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How the model is called in a loop of the user's own, and where it is cut."""

    calls_per_step: int = 1
    granularity: str = "branch"
    sites: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_arguments("learn", calls_per_step=self.calls_per_step)
        check_granularity(self.granularity)
        if self.granularity == "shell" and self.sites is not None:
            raise ValueError('learn: got sites= and granularity="shell"; shells name their sites')

    def check_guidance(self, cfg_scale: float | None) -> None:
        """ValueError where there are more calls than cond and uncond."""
        if cfg_scale is not None and self.calls_per_step > 2:
            raise ValueError(
                f"learn: cfg_scale={cfg_scale:g} with calls_per_step={self.calls_per_step}: "
                "guidance is known of two calls, or of the two halves of one call's batch; leave "
                "cfg_scale out, and the loss is of each call by itself"
            )


@dataclass(frozen=True, slots=True)
class LearnOptions:
    """Everything that the learned scores depend on besides the model, the data and the machine.

    `lam` None means that it follows a path, and `reuse` where that is cut; `cfg_scale` None means
    no guidance; `data` says whether latents were given.  In a loop of the user's own, `own_loop`
    is set and `batch_size` None, and `cfg_scale` None means that the loss is of each call.
    `history` outputs predict a reused branch, 0 where its latest one stands for it; cond and uncond
    are two `lanes` where each has coefficients of its own.
    """

    steps: int
    iterations: int
    batch_size: int | None
    lam: float | None
    reuse: float | None
    lr: float
    seed: int
    straight_through: float | None
    cfg_scale: float | None
    data: bool
    own_loop: LoopOptions | None = None
    history: int = 0
    lanes: int = 1

    @property
    def path(self) -> bool:
        """Whether lambda follows a path through all shares of reuse, or is given."""
        return self.lam is None

    def share_at(self, iteration: int) -> float:
        """The share of reuse that lambda is led to at this iteration of a path."""
        return iteration / self.iterations

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and back; those of an own loop only where there is one."""
        plain = asdict(self)
        if not self.history:
            del plain["history"]
        if self.lanes == 1:
            del plain["lanes"]
        own = plain.pop("own_loop")
        return plain if own is None else plain | own | {"sites": own["sites"] and [*own["sites"]]}


def resolve_options(
    bound_model: BoundModel | None,
    *,
    steps: int,
    iterations: int | None,
    batch_size: int | None,
    lam: float | None,
    reuse: float | None,
    lr: float | None,
    seed: int,
    straight_through: float | None,
    cfg_scale: float | None,
    data: bool,
    own_loop: LoopOptions | None = None,
    history: int = 0,
) -> LearnOptions:
    """The options with every default filled in.  Raises ValueError naming the argument.

    `bound_model` is the model for its published loop; None in a loop of the user's own.
    """
    check_arguments(
        "learn", steps=steps, iterations=iterations, lam=lam, reuse=reuse, lr=lr, seed=seed,
        straight_through=straight_through, cfg_scale=cfg_scale,
    )  # fmt: skip
    if own_loop is not None:
        _refuse_beside_loop(batch_size=batch_size, data=data or None)
        own_loop.check_guidance(cfg_scale)
    rows = _trained_rows(bound_model, steps)
    iterations = DEFAULT_VISITS * (rows if data else 1) if iterations is None else iterations
    if lam is None and reuse is None:
        reuse = DEFAULT_REUSE
    visits = iterations // rows if data else iterations
    return LearnOptions(
        steps=steps,
        iterations=iterations,
        batch_size=_batch_size(bound_model, batch_size),
        lam=lam,
        reuse=reuse,
        lr=default_lr(visits) if lr is None else lr,
        seed=seed,
        straight_through=straight_through,
        cfg_scale=_guidance(bound_model, cfg_scale, data),
        data=data,
        own_loop=own_loop,
        history=history,
    )


def history_of(corrector: str | None, history: int, *, published: bool, data: bool) -> int:
    """How many outputs predict a reused branch.  Raises ValueError where none can be learned."""
    check_arguments("learn", history=history)
    if corrector is None:
        return 0
    if corrector != "learned":
        raise ValueError(f'learn: corrector is {corrector!r:.40}, wanted "learned" or None')
    if data or not published:
        raise ValueError(
            'learn: corrector="learned" needs the trajectories of a published loop, without data= '
            "or loop=; learn the gates alone, and fit: rt.fit_corrector(model, router, loop)"
        )
    return history


def with_lanes(options: LearnOptions, bound_model: BoundModel | None) -> LearnOptions:
    """Coefficients for cond and uncond each.  Raises ValueError where nothing is guided."""
    loop = None if bound_model is None else bound_model.sampling
    if not options.history or loop is None:
        raise ValueError('learn: lanes=True is for corrector="learned"; leave lanes out')
    if options.cfg_scale is None or options.cfg_scale <= loop.guidance.neutral:
        raise ValueError(
            f"learn: lanes=True with cfg_scale={options.cfg_scale}: lanes are cond and uncond; "
            f"take a cfg_scale above {loop.guidance.neutral:g}, or leave lanes out"
        )
    return replace(options, lanes=2)


def _refuse_beside_loop(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"learn: got loop= and {name}={value!r:.40}, which the loop decides; leave {name} "
                "out"
            )


def _batch_size(bound_model: BoundModel | None, batch_size: int | None) -> int | None:
    if bound_model is None:
        return None
    batch_size = DEFAULT_BATCH if batch_size is None else batch_size
    check_arguments("learn", batch_size=batch_size)
    return batch_size


def _guidance(bound_model: BoundModel | None, cfg_scale: float | None, data: bool) -> float | None:
    if data and cfg_scale is not None:
        raise ValueError(
            f"learn: cfg_scale={cfg_scale:g} with data: the published procedure on latents uses "
            "no guidance; leave out one of the two"
        )
    if bound_model is None:
        return cfg_scale
    assert bound_model.sampling is not None
    if data or bound_model.sampling.null_label is None:
        return cfg_scale
    return bound_model.sampling.cfg_scale if cfg_scale is None else cfg_scale


def default_lr(visits: int) -> float:
    """A rate at which a logit can cross -5..5 some four times; the published one in long runs."""
    return max(PUBLISHED_LR, min(LARGEST_LR, 36.0 / max(visits, 1)))


def _trained_rows(bound_model: BoundModel | None, steps: int) -> int:
    """How many evaluations may reuse, where a loop of that length has any."""
    rules: RouterRules = OWN_LOOP if bound_model is None else _published(bound_model, steps)
    rows = len(rules.valid_rows(steps))
    if not rows:
        raise ValueError(f"learn: steps={steps} has no evaluation that may reuse; take more steps")
    return rows


def _published(bound_model: BoundModel, steps: int) -> Family:
    if bound_model.sampling is None:
        raise ValueError(
            f"learn: no published loop is known for {type(bound_model.model).__name__}; give your "
            "own: loop="
        )
    family = family_named(bound_model.program.family)
    stages = family.evaluations_per_solver_step
    if steps % stages:
        raise ValueError(
            f"learn: {family.sampler_display_name} takes {stages} evaluations per solver step, got "
            f"steps={steps}; take a multiple of {stages}"
        )
    return family
