"""enable(pipe, method) and disable(pipe): a pipeline's models compiled in place, and put back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from torch import nn

from l2c_rt.api import Schedulable, compile
from l2c_rt.correctors.corrector import Corrector, corrected
from l2c_rt.pipelines.loop_position import LoopPosition, Part
from l2c_rt.pipelines.pipeline_model import PipelineModel
from l2c_rt.pipelines.timesteps import (
    Replan,
    follows_timesteps,
    needs_timesteps,
    timesteps_of_run,
)
from l2c_rt.resolve import read_spec, resolve_schedule
from l2c_rt.runtime.known_loop import loop_of
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.runtime.summary import Summary
from l2c_rt.schedule.cache_schedule import CacheSchedule

MODELS = ("transformer", "transformer_2", "unet")
"""Attributes of a pipeline that hold the model that its loop calls."""

FROM_THE_LOOP = ("calls_per_step", "lanes")
"""Options of `compile` that the pipeline's loop decides."""


@dataclass(frozen=True)
class PipelineSummary:
    """A summary for each enabled model of a pipeline, by name; print it, or read the fields."""

    models: Mapping[str, Summary]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {summary}" for name, summary in self.models.items())


class Enabled:
    """The result of `enable`; leaving a `with` block undoes it."""

    def __init__(self, pipe: Any, models: Mapping[str, PipelineModel]) -> None:
        self.pipe, self.models = pipe, dict(models)

    def summary(self) -> PipelineSummary:
        """What was planned, reused and measured so far, for each model."""
        return PipelineSummary({name: model.summary() for name, model in self.models.items()})

    def __enter__(self) -> Enabled:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for name, model in self.models.items():
            # What was put in its place since is left where it is.
            if getattr(self.pipe, name, None) is model:
                _put_back(self.pipe, name, model)


def enable(
    pipe: Any,
    method: Schedulable | Mapping[str, Schedulable],
    *,
    steps: int | Mapping[str, int] | None = None,
    **options: Any,
) -> Enabled:
    """Compile the models of a diffusers pipeline in place: transformer, transformer_2, unet.

    `method` is the second argument of `compile`, or one for each model by name; models that are not
    named stay as they are.  `steps` is the number of timesteps of the pipeline's scheduler, which
    is not `num_inference_steps` for every scheduler; of two experts, each gets the steps on its
    side of the boundary, or what a mapping by name says.  `options` are those of `compile`;
    A method that goes by timesteps is planned anew for each run with others than the run before;
    `timesteps` are for such a method, in place of those of the pipeline's scheduler.
    Calls per step are counted in each run's first step.  A run with another number of steps raises
    ValueError before its first evaluation; one that starts late (strength) is computed in full and
    warns.  Use the result in a `with` block, or call `disable(pipe)`.
    Raises TypeError for a pipeline without such models or scheduler, ValueError for one that is
    enabled already; the pipeline is then as it was.
    """
    methods = _methods(pipe, method)
    timesteps = options.pop("timesteps", None)
    decided = [name for name in FROM_THE_LOOP if name in options]
    if timesteps is not None and not any(map(needs_timesteps, methods.values())):
        decided.append("timesteps")
    for name in decided:
        raise TypeError(f"enable: {name}= is not an option, the pipeline's loop decides it")
    given = {name: _steps_of(pipe, name, steps) for name in methods}
    models: dict[str, PipelineModel] = {}
    for name, spec in methods.items():
        times = timesteps_of_run(pipe, spec, given[name], timesteps)
        fast = compile(getattr(pipe, name), spec, steps=given[name], timesteps=times, **options)
        shared, replan = fast.run.shared, None
        if timesteps is None and follows_timesteps(spec):
            replan = _replan(spec, shared, options.get("corrector"))
        # Every run may have other timesteps: those that a schedule was made for are compared.
        shared.loop = None if replan else loop_of(fast.schedule, None)
        part = _part(pipe, name, fast.schedule.steps, steps)
        models[name] = PipelineModel(shared, position=LoopPosition(pipe, part), replan=replan)
    for name, model in models.items():
        setattr(pipe, name, model)
    return Enabled(pipe, models)


def _replan(spec: Any, shared: SharedModel, corrector: Corrector | None) -> Replan:
    """The schedule of a method for the timesteps of a run."""
    program = shared.version.model.program

    def schedule(timesteps: Sequence[float]) -> CacheSchedule:
        planned = resolve_schedule(
            spec, steps=len(timesteps), branches=program.branch_names, timesteps=timesteps,
            program=program,
        )  # fmt: skip
        return planned if corrector is None else corrected(planned, corrector)

    return schedule


def disable(pipe: Any) -> None:
    """Put back the models that `enable` replaced, and give the memory of their caches back.

    Raises ValueError where nothing is enabled.
    """
    models = {name: model for name, model in _models(pipe).items() if _is_enabled(model)}
    if not models:
        raise ValueError(
            f"disable: nothing is enabled on this {type(pipe).__name__}; enable(pipe, ...) comes "
            "first"
        )
    for name, model in models.items():
        _put_back(pipe, name, model)


def _put_back(pipe: Any, name: str, model: Any) -> None:
    setattr(pipe, name, model.bound_model.model)
    model.close()


def _is_enabled(model: nn.Module) -> bool:
    return isinstance(model, PipelineModel)


def _models(pipe: Any) -> dict[str, nn.Module]:
    models = {name: getattr(pipe, name, None) for name in MODELS}
    return {name: model for name, model in models.items() if isinstance(model, nn.Module)}


def _methods(pipe: Any, method: Schedulable | Mapping[str, Schedulable]) -> dict[str, Schedulable]:
    """The method of each model that is to be enabled."""
    models = _models(pipe)
    if not models or not hasattr(getattr(pipe, "scheduler", None), "timesteps"):
        parts = getattr(pipe, "components", None)
        raise TypeError(
            f"enable: wanted a diffusers pipeline with a scheduler and one of {', '.join(MODELS)}; "
            f"{type(pipe).__name__} has "
            f"{', '.join(parts) if isinstance(parts, Mapping) and parts else 'neither'}"
        )
    if enabled := [name for name, model in models.items() if _is_enabled(model)]:
        raise ValueError(
            f"enable: {', '.join(enabled)} of this {type(pipe).__name__} is enabled already; "
            "disable(pipe) comes first"
        )
    if not isinstance(method, Mapping):
        return dict.fromkeys(models, read_spec(method))
    if not method or not method.keys() <= models.keys():
        raise ValueError(
            f"enable: got methods for {', '.join(method) or 'no model'}, the pipeline has "
            f"{', '.join(models)}"
        )
    return {name: read_spec(spec) for name, spec in method.items()}


def _steps_of(pipe: Any, name: str, steps: int | Mapping[str, int] | None) -> int | None:
    """The evaluations that a model makes in a run, as far as they are given."""
    boundary = _boundary(pipe, name)
    if isinstance(steps, Mapping):
        if unknown := steps.keys() - _models(pipe).keys():
            raise ValueError(
                f"enable: got steps for {', '.join(map(str, unknown))}, the pipeline has "
                f"{', '.join(_models(pipe))}"
            )
        return steps.get(name)
    if steps is None or boundary is None:
        return steps
    scheduler = copy.deepcopy(pipe.scheduler)
    try:
        scheduler.set_timesteps(steps)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"enable: {type(scheduler).__name__} gives no timesteps for {steps} steps alone "
            f"({error}); say how many each model makes: steps={{'transformer': ..., ...}}"
        ) from error
    part = Part(name, 0, steps, boundary, _above(name))
    return part.of(scheduler.timesteps)


def _part(pipe: Any, name: str, own: int, steps: int | Mapping[str, int] | None) -> Part:
    boundary = _boundary(pipe, name)
    if boundary is None:
        return Part(name, own, own)
    total = steps if isinstance(steps, int) else None
    return Part(name, own, total, boundary, _above(name))


def _boundary(pipe: Any, name: str) -> float | None:
    """The timestep at which one expert takes over from the other, as Wan 2.2's do."""
    ratio = getattr(getattr(pipe, "config", None), "boundary_ratio", None)
    if ratio is None or not name.startswith("transformer"):
        return None
    return float(ratio * pipe.scheduler.config.num_train_timesteps)


def _above(name: str) -> bool:
    return name == "transformer"
