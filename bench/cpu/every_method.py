"""Every method that a DiT carries, near half of the full run's arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from torch import nn

import l2c_rt as rt
from l2c_rt.comparison.arithmetic import counted
from l2c_rt.comparison.subjects import PublishedLoopSubject
from l2c_rt.measure.clocks import host_seconds
from l2c_rt.measure.interleaved import Samples, Spread, ratios, side_by_side, spread
from l2c_rt.policies import Full
from l2c_rt.sampling.solvers import ddim
from l2c_rt.schedule.calibration import Calibration

FULL = "the full run"
STEPS = 20
UNGUIDED = 1.0


class Setting(NamedTuple):
    """A method, options of `compile` for it, and how it is set."""

    method: Any
    label: str = ""
    options: Mapping[str, Any] = {}


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
    subject: PublishedLoopSubject = field(init=False)

    def __post_init__(self) -> None:
        self.subject = PublishedLoopSubject(self.model, STEPS, 1, UNGUIDED, "auto")

    def methods(self) -> Mapping[str, Setting]:
        """By name; the thresholds are those near half of the arithmetic at width 384."""
        methods, times = rt.methods, {"timesteps": ddim(STEPS).timesteps}
        of_branches, of_blocks = (
            rt.calibrate(self.model, steps=STEPS, samples=1, granularity=of, cfg_scale=UNGUIDED,
                         prior=of == "branch")
            for of in ("branch", "block")
        )  # fmt: skip
        return {
            **_fora(of_branches),
            "smoothcache": _set(methods.SmoothCache(of_branches), threshold=0.4154),
            "block-caching": _set(methods.BlockCaching(of_blocks), delta=1.163),
            "magcache": _set(methods.MagCache(of_blocks), threshold=0.1483),
            "delta-dit": _set(methods.DeltaDiT(), interval=64),
            "steps-mask": Setting(methods.StepsMask((1, 0) * (STEPS // 2), 1)),
            "pab": Setting(methods.PAB(4), options=times),
            "first-block-cache": _set(methods.FirstBlockCache(), threshold=0.7285),
            "dbcache": _set(methods.DBCache(max_warmup_steps=2), residual_diff_threshold=0.7634),
            "teacache": _set(methods.TeaCache(0.1, (1.0, 0.0)), threshold=0.5501),
            "easycache": _set(methods.EasyCache(ret_steps=4), threshold=0.5501),
            "seacache": _set(methods.SeaCache(), threshold=0.5501),
            "speca": Setting(methods.SpeCa(min_taylor_steps=1, max_taylor_steps=1)),
            "toca": _set(methods.ToCa(), fresh_threshold=3),
            "duca": _set(methods.DuCa(), fresh_threshold=3),
        }

    def timed(self, rounds: int) -> Iterator[tuple[str, Timed]]:
        """Every method beside the full run by its own route, which is run once for all of them:
        full, A, B, C, C, B, A, full a round, so that a drift of the machine falls on all."""
        routes: dict[str, dict[str, Sequence[rt.Compiled]]] = {}
        settings, shares = self.methods(), dict[str, float]()
        for name, setting in settings.items():
            own = self.subject.build(setting.method, setting.options)
            # The first run packs weights and measures products; it decides as the others do.
            _, computed = counted(own, partial(self._run, own))
            shares[name] = computed.share
            routes.setdefault(own[0].backend.name, {})[name] = own
        for route, methods in routes.items():
            samples = self._samples(route, methods, rounds)
            for name in methods:
                speedup = spread(ratios(samples[FULL], samples[name]))
                yield name, Timed(settings[name].label, route, shares[name], speedup)

    def _samples(
        self, route: str, methods: Mapping[str, Sequence[rt.Compiled]], rounds: int
    ) -> Samples:
        full = self.subject.build(Full(), {"granularity": "block"} if route == "own" else {})
        self._run(full)
        programs = {FULL: full, **methods}
        runs = {name: partial(self._run, models) for name, models in programs.items()}
        samples = side_by_side(runs, host_seconds, rounds)
        for models in programs.values():
            for model in models:
                model.close()
        return samples

    def _run(self, models: Sequence[rt.Compiled]) -> None:
        self.subject.run(models, 0)


def _set(method: Any, **fields: float) -> Setting:
    label = ", ".join(f"{name}={value:g}" for name, value in fields.items())
    return Setting(replace(method, **fields), label)


def _fora(calibration: Calibration) -> dict[str, Setting]:
    """Every second evaluation, reused plainly and by each corrector."""
    correctors = {
        "goc": rt.correctors.Goc(0.8, None),
        "eoc": rt.correctors.EOC(calibration),
        "taylorseer": rt.correctors.Taylor(2),
        "hicache": rt.correctors.HiCache(),
    }
    plain = _set(rt.methods.FORA(), cache_threshold=2)
    with_them = {n: plain._replace(options={"corrector": c}) for n, c in correctors.items()}
    return {"fora": plain, **with_them}
