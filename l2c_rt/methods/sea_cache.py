"""SeaCache: the latents, seen through a filter that follows the noise level, decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from l2c_rt.correctors.differences import finite_differences, weighted
from l2c_rt.methods.checks import check_callback, check_int, check_number, numbers_of
from l2c_rt.methods.deciding import Deciding
from l2c_rt.plan.decisions import At, Cut, Decided, Look, ModelFacts
from l2c_rt.plan.spectrum import Spectrum
from l2c_rt.schedule.cache_schedule import CacheSchedule

if TYPE_CHECKING:
    from torch import Tensor, nn

NOISE_AS_TIMESTEP = frozenset({"FluxTransformer2DModel", "Flux2Transformer2DModel",
                               "QwenImageTransformer2DModel"})  # fmt: skip
"""Models that are given the noise level itself as their timestep."""


MakeLatents = Callable[["nn.Module", tuple[Any, ...], dict[str, Any]], "list[Tensor] | None"]


class Skipped(NamedTuple):
    """The sum of the changes, and evaluations reused in a row."""

    change: float = 0.0
    in_a_row: int = 0


@dataclass(frozen=True, slots=True)
class SeaCache(Deciding):
    """Skips all blocks until the change of the filtered latents adds up to `threshold`.

    The filter is that of a signal whose spectrum falls as 1 / f^power_exp along each of the last
    two or three axes, at the noise level of the evaluation; the change is mean |i - i'| / mean |i'|
    of each sample, i' being that of the evaluation before, and the sum begins anew at every
    computed evaluation.  Computed are the first `retention_steps`, the last `cache_end_steps`, and
    one after `max_consecutive_cached` reused ones (0: no such limit).
    With `residual_order` 1 what the blocks add is extrapolated linearly from the last two computed
    evaluations.  `sigmas` [steps] are the noise levels; None takes them from the timesteps of flow
    matching, which are 1,000 times the noise level for most models; a loop may also announce them:
    `cache_context(sigma=...)`.
    `raw_vision_callback` (model, args, kwargs) makes the latents of a call, a list of [C, T, H, W]
    or [C, H, W]; where it gives None all is computed.
    Kept: what all blocks add, per stream, once or twice, and i'.  Needs: latents [B, C, H, W] or
    [B, C, T, H, W], or that function.
    Source: arXiv 2602.18993; diffusers 0.42, SeaCacheConfig, whose names and defaults these are.
    """

    threshold: float = 0.25
    residual_order: int = 1
    retention_steps: int = 1
    cache_end_steps: int = 1
    max_consecutive_cached: int = 2
    power_exp: float = 3.0
    raw_vision_callback: MakeLatents | None = None
    sigmas: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_callback("SeaCache: raw_vision_callback", self.raw_vision_callback)
        check_number("SeaCache: threshold", self.threshold, 0)
        check_number("SeaCache: power_exp", self.power_exp, 0)
        for name, least in (
            ("retention_steps", 0), ("cache_end_steps", 0), ("max_consecutive_cached", 0),
        ):  # fmt: skip
            check_int(f"SeaCache: {name}", getattr(self, name), least)
        if isinstance(self.residual_order, bool) or self.residual_order not in (0, 1):
            raise ValueError(
                f"SeaCache: residual_order is {self.residual_order!r:.40}, wanted 0 or 1"
            )
        if self.sigmas is not None:
            sigmas = numbers_of("SeaCache: sigmas", self.sigmas, 0, 1)
            object.__setattr__(self, "sigmas", sigmas)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        if self.sigmas is not None and len(self.sigmas) != steps:
            raise ValueError(
                f"SeaCache: sigmas has {len(self.sigmas)} entries, the run has {steps} "
                "evaluations; give one per evaluation, without the last 0"
            )
        return Deciding.schedule(self, steps, branches)

    def cut(self, facts: ModelFacts) -> Cut:
        scale = 1.0 if facts.kind in NOISE_AS_TIMESTEP else 1000.0
        sigmas = None if self.sigmas is None else tuple(self.sigmas)
        spectrum = Spectrum(self.power_exp, scale, sigmas)
        latents = self.raw_vision_callback
        return Cut(Look("call", measure="filtered", spectrum=spectrum, latents=latents))

    @property
    def history(self) -> int:
        return 1 + self.residual_order

    def prediction(self, computed: tuple[int, ...], at: At) -> Mapping[int, float]:
        differences = finite_differences(computed[-2:], 1)
        return weighted(differences, [1.0, float(at.step - computed[-1])])

    def begin(self) -> Skipped:
        return Skipped()

    def forced(self, state: Skipped, at: At) -> Decided | None:
        is_end = at.step < self.retention_steps or at.step >= at.steps - self.cache_end_steps
        return Decided(0) if is_end or 0 < self.max_consecutive_cached <= state.in_a_row else None

    def choose(self, state: Skipped, at: At, metric: float) -> int:
        return int(state.change + metric < self.threshold)

    def after(self, state: Skipped, at: At, done: Decided) -> Skipped:
        if done.row == 0:
            return Skipped()
        return Skipped(state.change + done.metric, state.in_a_row + 1)
