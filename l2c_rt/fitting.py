"""Whether a schedule or method fits a model, and where it wants the model cut."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from l2c_rt.adapters import describe, has_adapter
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.describe_deciding import describe_deciding
from l2c_rt.adapters.model_fingerprint import fingerprint_difference, model_fingerprint
from l2c_rt.adapters.own.unet import describe_unet
from l2c_rt.notices import L2CWarning
from l2c_rt.plan.decisions import DynamicMethod
from l2c_rt.runtime.known_loop import same_timestep
from l2c_rt.runtime.notices import users_level
from l2c_rt.schedule.cache_schedule import CacheSchedule


def describe_for(
    spec: object,
    model: nn.Module,
    adapter: Callable[[Any], BoundModel] | None,
    sites: Sequence[str] | None,
    granularity: str | None,
    *,
    on_shells: bool,
) -> Callable[[Any], BoundModel]:
    """`describe` for what is to run: how the model is described, and described again where it has
    changed.  `on_shells` is set for what is for the shells of a U-Net.

    Raises ValueError for options that do not fit, as the result does for a model that does not.
    """
    if isinstance(spec, DynamicMethod):
        return describe_deciding(spec, adapter, sites, granularity)
    if granularity is None:
        granularity = getattr(spec, "granularity", "branch")
    if adapter is None and sites is None:
        if on_shells:
            adapter, granularity = describe_unet, "branch"
        else:
            sites = named_sites(spec, model, granularity)
    return partial(describe, adapter=adapter, sites=sites, granularity=granularity)


def planned_by(spec: object, described: BoundModel) -> object:
    """What makes the schedule: a method that decides at run time as it is for this model."""
    return spec if described.dynamic is None else described.dynamic.method


def named_sites(spec: object, model: nn.Module, granularity: str) -> tuple[str, ...] | None:
    """The sites that a method wants of a model without an adapter, or that a schedule's branches
    name, where they are not those of the rule."""
    wanted = getattr(spec, "sites", None)
    if wanted is not None and isinstance(model, nn.Module):
        paths: tuple[str, ...] | None = wanted(model)
        by_path = getattr(spec, "tells_paths_apart", False)
        known = paths is None or (not by_path and _are_branches(paths, spec, model))
        return None if known else paths
    names: tuple[str, ...] = getattr(spec, "branches", ())
    if not names or not isinstance(model, nn.Module):
        return None
    if not set(names) <= {path for path, _ in model.named_modules()}:
        return None
    try:
        ruled = describe(model, granularity=granularity).program.branch_names
    except TypeError:
        return names
    return None if set(ruled) == set(names) else names


def _are_branches(paths: Sequence[str], spec: object, model: nn.Module) -> bool:
    """Whether a built-in adapter has the modules that a method wants as branches of its own: all
    of them, or some, for a method that tells branches apart by their kinds."""
    if not has_adapter(model):
        return False
    branches = {site.children[-1] for site in describe(model).sites}
    by_kind = getattr(spec, "tells_kinds_apart", False)
    return set(paths) <= branches if by_kind else set(paths) == branches


def check_calibration(spec: object, described: BoundModel) -> None:
    """What a method has measured holds for the model that it was measured on."""
    calibration = getattr(spec, "calibration", None)
    fingerprint = getattr(calibration, "fingerprint", "")
    if fingerprint and (
        difference := fingerprint_difference(model_fingerprint(described.model), fingerprint)
    ):
        remedy = getattr(spec, "REMEDY", "calibrate this one: rt.calibrate(model, steps=...)")
        raise ValueError(
            f"compile: the calibration of {type(spec).__name__} is of a model of other "
            f"{difference}; {remedy}"
        )


def check_schedule(
    schedule: CacheSchedule,
    described: BoundModel,
    timesteps: Sequence[float] | None,
    strict: bool,
) -> None:
    """Raise ValueError for a schedule of another family.

    Of other timesteps than the run's, or another model than the one it was learned on: see
    `_tell_other`.
    """
    family = described.program.family
    if schedule.family not in ("", family):
        raise ValueError(
            f"compile: the schedule is for the family {schedule.family!r}, the model is {family!r}"
        )
    pairs = enumerate(zip(schedule.timesteps or (), timesteps or (), strict=False))
    other = next(((n, a, b) for n, (a, b) in pairs if not same_timestep(a, b)), None)
    if other is not None:
        _tell_other(
            schedule, strict,
            "the schedule was made for timestep {1:g} at evaluation {0}, timesteps= has {2:g}, so "
            "this run may lose quality on it; run the sampler that it was made for, or make one "
            "for this run".format(*other),
        )  # fmt: skip
    _check_fingerprint(schedule, described, strict)


def _check_fingerprint(schedule: CacheSchedule, described: BoundModel, strict: bool) -> None:
    """`_tell_other` where the schedule was learned on another model."""
    if not schedule.fingerprint:
        return
    difference = fingerprint_difference(model_fingerprint(described.model), schedule.fingerprint)
    if not difference:
        return
    _tell_other(
        schedule, strict,
        f"the schedule was learned on a model of other {difference} "
        f"({schedule.source or 'no source given'}), so this model may lose quality on it; learn a "
        "router on this model, or load the weights that it was learned on",
    )  # fmt: skip


def _tell_other(schedule: CacheSchedule, strict: bool, text: str) -> None:
    """Warn, or with `strict` raise ValueError, of a schedule for another run or model.

    Predictions that were fitted there are of no use here: with them it raises as well.
    """
    if strict:
        raise ValueError(f"strict: compile: {text}")
    if schedule.predictions is not None:
        raise ValueError(
            f"compile: {text}; its predictions were fitted there: "
            "rt.fit_corrector(model, schedule) fits them anew"
        )
    warnings.warn(f"compile: {text}", L2CWarning, stacklevel=users_level())
