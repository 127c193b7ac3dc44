"""What is compared on the digits: every method that the model carries, each with its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

import l2c_rt as rt
from l2c_rt import adapters
from l2c_rt.comparison.knobs import knob_of, nearest
from l2c_rt.comparison.methods import Entry, controls
from l2c_rt.demo.run import DemoSettings, load_demo_router
from l2c_rt.sampling.solvers import ddim
from l2c_rt.searching.columns import reused_share

SEED = 1_000
"""Of all that is calibrated, fitted and searched; those of the measurement are 0 .. 2."""

SAMPLES = 10
"""Of calibration."""

MINUTES = 0.5
"""Of each search."""

SEARCHES = {"search": None, "search + fitted": "fitted"}
"""By what stands for a reused branch."""

FITS = 4
"""Entries before the searches, those of the routers."""

HALVINGS = 14
GUIDANCE = DemoSettings().guidance


@dataclass(frozen=True)
class Digits:
    """The shipped model in runs of `steps`, at shares `compute` of the full run's arithmetic; the
    folder keeps what was fitted and searched."""

    model: nn.Module
    steps: int
    compute: tuple[float, ...]
    folder: Path

    def entries(self, only: Collection[str] = ()) -> list[Entry]:
        """Of all methods, or of those named; the controls have the routers' family."""
        router = load_demo_router(self.steps)
        cuts = [self._cut(router, share) for share in self.compute]
        # A search takes minutes, and so do all the others together.
        entries = [] if only and set(only) <= SEARCHES.keys() else [
            *self._routers(router, cuts), *controls(router.schedule(), 0), *self._planned(),
            *self._deciding(), *self._tokens_and_guidance(),
        ]  # fmt: skip
        searches = [self._search(name, cuts) for name in SEARCHES if not only or name in only]
        entries[FITS:FITS] = searches
        if unknown := set(only) - {entry.name for entry in entries}:
            raise ValueError(f"no methods {', '.join(sorted(unknown))}")
        return [entry for entry in entries if not only or entry.name in only]

    def _routers(self, router: rt.Router, cuts: Sequence[rt.CacheSchedule]) -> list[Entry]:
        """The router of the digits by what stands for a reused branch."""
        return [
            Entry("learned", router),
            Entry("learned + GOC", router, {"corrector": rt.correctors.Goc(0.8, None)}),
            Entry("learned + Taylor", router, {"corrector": rt.correctors.Taylor(1)}),
            Entry("learned + fitted", [self._fitted(cut, k) for k, cut in enumerate(cuts)]),
        ]

    def _search(self, name: str, cuts: Sequence[rt.CacheSchedule]) -> Entry:
        """Our search, at the shares of the cuts."""
        return Entry(name, [self._searched(cut, k, SEARCHES[name]) for k, cut in enumerate(cuts)])

    def _planned(self) -> list[Entry]:
        """Methods that decide before the run, from counts or from a calibration."""
        methods, every = rt.methods, {"timesteps": ddim(self.steps).timesteps}
        of_branches, of_blocks = (
            rt.calibrate(self.model, steps=self.steps, samples=SAMPLES, cfg_scale=GUIDANCE,
                         granularity=of, seed=SEED, prior=of == "branch")
            for of in ("branch", "block")
        )  # fmt: skip
        return [
            Entry("FORA", methods.FORA()),
            Entry("FORA + EOC", methods.FORA(), {"corrector": rt.correctors.EOC(of_branches)}),
            Entry("TaylorSeer", methods.FORA(), {"corrector": rt.correctors.Taylor(2)}),
            Entry("HiCache", methods.FORA(), {"corrector": rt.correctors.HiCache()}),
            Entry("SmoothCache", methods.SmoothCache(of_branches)),
            Entry("Delta-DiT", methods.DeltaDiT(num_cached=6, boundary=self.steps // 2)),
            Entry("MagCache", methods.MagCache(of_blocks)),
            Entry("Block Caching", methods.BlockCaching(of_blocks)),
            Entry("PAB", [methods.PAB(n) for n in (2, 4, 8)], every),
        ]

    def _deciding(self) -> list[Entry]:
        """Methods that decide at run time.  TeaCache's polynomial is the identity: none is
        published for this model.  SpeCa has its defaults with as few predictions as it can."""
        methods = rt.methods
        return [
            Entry("First-Block-Cache", methods.FirstBlockCache()),
            Entry("DBCache", methods.DBCache(Fn_compute_blocks=4, max_warmup_steps=2)),
            Entry("TeaCache", methods.TeaCache(0.1, coefficients=(1.0, 0.0))),
            Entry("EasyCache", methods.EasyCache(ret_steps=self.steps // 5)),
            Entry("SeaCache", methods.SeaCache(sigmas=noise_levels(self.steps))),
            Entry("SpeCa", [methods.SpeCa(min_taylor_steps=1, max_taylor_steps=k) for k in (1, 2)]),
        ]

    def _tokens_and_guidance(self) -> list[Entry]:
        """FasterCache with two intervals of the unconditional half, with and without attention."""
        halves: list[rt.api.Schedulable] = [
            rt.methods.FasterCache(
                attention, unconditional_batch_skip_range=every, tensor_format="BCHW",
                uncond_first=False,
            )
            for every in (2, 5) for attention in (2, None)
        ]  # fmt: skip
        return [
            Entry("ToCa", rt.methods.ToCa()),
            Entry("DuCa", rt.methods.DuCa()),
            Entry("FasterCache", halves, {"timesteps": ddim(self.steps).timesteps}),
        ]

    def _cut(self, router: rt.Router, share: float) -> rt.CacheSchedule:
        """The router where it computes that share of the full run's arithmetic."""
        knob = knob_of(router)

        def measured(reuse: float) -> float:
            cost = rt.compile(self.model, knob.at(reuse)).cost
            return cost.macs / cost.full_macs

        return router.schedule(reuse=nearest(knob, share, {}, measured, HALVINGS))

    def _fitted(self, cut: rt.CacheSchedule, number: int) -> rt.CacheSchedule:
        def make(out: Path) -> object:
            return rt.fit_corrector(self.model, cut, seed=SEED, cfg_scale=GUIDANCE, out=out,
                                    resume=True)  # fmt: skip

        return rt.correctors.Fitted.load(self._kept(f"fitted-{number}.safetensors", make)).fit

    def _searched(
        self, cut: rt.CacheSchedule, number: int, corrector: str | None
    ) -> rt.CacheSchedule:
        """At as much of the branches' arithmetic as the cut."""
        branches = adapters.bind(self.model).program.branches
        reuse = reused_share(cut.compute, np.array([branch.macs for branch in branches], float))

        def make(out: Path) -> object:
            return rt.search(self.model, steps=self.steps, reuse=reuse, minutes=MINUTES,
                             corrector=corrector, seed=SEED, cfg_scale=GUIDANCE, out=out,
                             resume=True)  # fmt: skip

        return rt.CacheSchedule.load(self._kept(f"search-{corrector}-{number}.json", make))

    def _kept(self, name: str, make: Callable[[Path], object]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        if not path.exists():
            make(path)
        return path


def noise_levels(steps: int) -> list[float]:
    """Of DDIM's latents, sqrt(s) x + sqrt(1 - s) noise: the noise's share of both factors, which is
    where flow matching has as much noise for its signal."""
    signal = [ddim(steps).signal(k) for k in range(steps)]
    return [(1 - s) ** 0.5 / ((1 - s) ** 0.5 + s**0.5) for s in signal]
