"""At the end of learning with predictors: those of the cut that was learned for, fitted again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from l2c_rt.learning.options import LearnOptions
from l2c_rt.learning.state import draw_seed
from l2c_rt.policies.router import Router
from l2c_rt.regression.fit_corrector import fit_corrector

FIT = "fitted.safetensors"


def refitted(
    router: Router,
    model: nn.Module,
    options: LearnOptions,
    folder: Path | None,
    progress: bool,
) -> Router:
    """The router with what `fit_corrector` makes of `router.schedule()`, of which what was learned
    is one candidate; as it is where that reuses nothing.

    Learned coefficients are over full evaluations only, so that they hold at every cut; a fit to
    one cut is over all that was used before.  Its runs are by a seed that no iteration has.
    The loop is the published one.  `folder` receives the fit, and while it is made its sums, which
    are taken up again.
    """
    schedule = router.schedule()
    if schedule.compute.all():
        return router
    fit = fit_corrector(
        model, schedule, history=options.history, lanes=options.lanes > 1, progress=progress,
        cfg_scale=options.cfg_scale,
        seed=draw_seed(options.seed, options.iterations), out=folder and folder / FIT,
        resume=folder is not None,
    )  # fmt: skip
    return replace(router, fitted=fit.fit.predictions)
