"""Every method that a DiT carries, near half of the full run's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

import l2c_rt as rt
from l2c_rt.comparison.arithmetic import Planned, counted
from l2c_rt.comparison.knobs import as_given, knob_of, nearest
from l2c_rt.comparison.subjects import PublishedLoopSubject
from l2c_rt.measure.clocks import host_seconds
from l2c_rt.measure.interleaved import Spread, ratios, side_by_side, spread
from l2c_rt.policies import Full
from l2c_rt.sampling.solvers import ddim
from l2c_rt.schedule.calibration import Calibration

STEPS = 20
SHARE = 0.5
HALVINGS = 8
UNGUIDED = 1.0


@dataclass(frozen=True)
class Timed:
    """A method beside the full run by the same route: the model's own forward, or the backend's.

    `computed` is its share of the full run's arithmetic, so that 1 / computed bounds the speed-up.
    """

    setting: str
    backend: str
    computed: float
    speedup: Spread

    @property
    def of_bound(self) -> float:
        """The measured speed-up's share of that bound."""
        return self.speedup.median * self.computed

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the record of a benchmark."""
        return {
            "setting": self.setting, "backend": self.backend, "computed": self.computed,
            "bound": 1 / self.computed, "of_bound": self.of_bound,
            "speedup": [self.speedup.low, self.speedup.median, self.speedup.high],
        }  # fmt: skip


@dataclass
class EveryMethod:
    """Methods on a model in its published loop, one image without guidance."""

    model: nn.Module
    quick: bool
    subject: PublishedLoopSubject = field(init=False)

    def __post_init__(self) -> None:
        self.subject = PublishedLoopSubject(self.model, STEPS, 1, UNGUIDED, "auto")
        self._planned = Planned(self.subject.build, self._run)

    def methods(self) -> Mapping[str, tuple[Any, dict[str, Any]]]:
        """Method and options of `compile` by name."""
        methods, times = rt.methods, {"timesteps": ddim(STEPS).timesteps}
        of_branches, of_blocks = (
            rt.calibrate(self.model, steps=STEPS, samples=1, granularity=of, cfg_scale=UNGUIDED,
                         prior=of == "branch")
            for of in ("branch", "block")
        )  # fmt: skip
        return {
            **_fora(of_branches),
            "smoothcache": (methods.SmoothCache(of_branches), {}),
            "block-caching": (methods.BlockCaching(of_blocks), {}),
            "magcache": (methods.MagCache(of_blocks), {}),
            "delta-dit": (methods.DeltaDiT(), {}),
            "steps-mask": (methods.StepsMask((1, 0) * (STEPS // 2), 1), {}),
            "pab": (methods.PAB(4), times),
            "first-block-cache": (methods.FirstBlockCache(), {}),
            "dbcache": (methods.DBCache(max_warmup_steps=2), {}),
            "teacache": (methods.TeaCache(0.1, (1.0, 0.0)), {}),
            "easycache": (methods.EasyCache(ret_steps=4), {}),
            "seacache": (methods.SeaCache(), {}),
            "speca": (methods.SpeCa(min_taylor_steps=1, max_taylor_steps=1), {}),
            "toca": (methods.ToCa(), {}),
            "duca": (methods.DuCa(), {}),
        }

    def timed(self, method: Any, options: dict[str, Any], rounds: int) -> Timed:
        """A method's setting nearest to half, beside the full run, A B B A a round.

        With `quick` it is the setting that the method has.
        """
        knob = as_given(method) if self.quick else knob_of(method)

        def share(value: float) -> float:
            return self._planned.share(knob.at(value), options)

        value = 0 if self.quick else nearest(knob, SHARE, {}, share, HALVINGS)
        own = self.subject.build(knob.at(value), options)
        is_own = own[0].backend.name == "own"
        full = self.subject.build(Full(), {"granularity": "block"} if is_own else {})
        self._run(full)
        # The first run packs weights and measures products; the second is counted.
        self._run(own)
        _, computed = counted(own, partial(self._run, own))
        samples = side_by_side(
            {"full": partial(self._run, full), "own": partial(self._run, own)}, host_seconds, rounds
        )
        for model in (*own, *full):
            model.close()
        speedup = spread(ratios(samples["full"], samples["own"]))
        return Timed(knob.label(value), own[0].backend.name, computed.share, speedup)

    def _run(self, models: Sequence[rt.Compiled]) -> None:
        self.subject.run(models, 0)


def _fora(calibration: Calibration) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every second evaluation, reused plainly and by each corrector."""
    correctors = {
        "goc": rt.correctors.Goc(0.8, None),
        "eoc": rt.correctors.EOC(calibration),
        "taylorseer": rt.correctors.Taylor(2),
        "hicache": rt.correctors.HiCache(),
    }
    every_second = rt.methods.FORA(2)
    named = {name: (every_second, {"corrector": c}) for name, c in correctors.items()}
    return {"fora": (every_second, {}), **named}
