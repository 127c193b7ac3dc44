"""`fit_scale_shift`: the training of Block Caching's adjustment, by least squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.arguments import check_arguments
from l2c_rt.calibration.calibrate import described_for_calibration
from l2c_rt.calibration.recorder import Recorder, Seen
from l2c_rt.calibration.runs import Progress, Runs
from l2c_rt.comparison.loop_runs import Loop
from l2c_rt.correctors.scale_shift import ScaleShift, last_computed
from l2c_rt.methods.checks import check_callback
from l2c_rt.resolve import read_spec, resolve_schedule
from l2c_rt.runtime.known_loop import numbers_of
from l2c_rt.runtime.loop_model import Place
from l2c_rt.schedule.cache_schedule import CacheSchedule

Cell = tuple[int, int]


def fit_scale_shift(
    model: nn.Module,
    method: Any,
    loop: Loop | None = None,
    *,
    steps: int | None = None,
    samples: int = 10,
    seed: int = 0,
    sites: Sequence[str] | None = None,
    calls_per_step: int = 1,
    noise: Tensor | None = None,
    labels: Sequence[int] | None = None,
    cfg_scale: float | None = None,
    timesteps: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> ScaleShift:
    """Learn the scale and shift of every cell that a schedule reuses; the weights stay as they are.

    `method` is what `compile` takes.  The run goes on with the cached model's own predictions; at
    every evaluation the model itself is run on the same latents, and scale and shift are those that
    bring what is kept nearest to what it gives, over tokens, images and runs so far.  Costs two
    uncached runs.  `loop`, `samples` and the others are as for `calibrate`.
    Raises ValueError as `compile` does, and for branches that give several tensors.
    """
    check_arguments(
        "fit_scale_shift", loop=loop, samples=samples, seed=seed, calls_per_step=calls_per_step,
        cfg_scale=cfg_scale, labels=labels,
    )  # fmt: skip
    check_callback("fit_scale_shift: progress", progress)
    timesteps = numbers_of(timesteps)
    spec = read_spec(method)
    granularity = getattr(spec, "granularity", "branch")
    bound_model = described_for_calibration(model, loop, sites, granularity)
    program = bound_model.program
    schedule = resolve_schedule(
        spec, steps=steps, branches=program.branch_names, timesteps=timesteps, program=program
    )
    runs = Runs(bound_model, schedule.steps, loop, calls_per_step, cfg_scale, progress=progress)
    student = _Student(bound_model, schedule)
    runs.over(student, samples, seed, noise, labels)
    scale, shift = student.fitted()
    return ScaleShift(
        scale, shift, schedule.digest, model_fingerprint(model), f"{samples} samples, seed {seed}"
    )


class _Student:
    """The cached model, run by the model's own forward, with a teacher pass before its own."""

    def __init__(self, bound_model: Any, schedule: CacheSchedule) -> None:
        self._schedule = schedule
        self._teacher = _Outputs()
        self._pass = Recorder(bound_model, [self._teacher])
        columns = range(schedule.num_branches)
        self._latest = [last_computed(schedule.compute[:, k]) for k in columns]
        self._fits: dict[Cell, ChannelFit] = {}
        self._kept: dict[tuple[int, int, int], Tensor] = {}

    def begin_run(self) -> None:
        self._kept.clear()
        self._pass.begin_run()

    def call(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the cached model gives, after the teacher has run on the same arguments."""
        row = self._schedule.compute[place.step]
        if not row.all():
            self._pass.call(place, args, kwargs)
            for k in np.flatnonzero(~row).tolist():
                for (branch, number), target in self._teacher.outputs.items():
                    if branch == k:
                        fit = self._fits.setdefault((place.step, k), ChannelFit())
                        fit.add(self._kept[place.lane, k, number], target)
            self._teacher.outputs.clear()
        out = self._pass.call(place, args, kwargs, self._replaced(place))
        for (k, number), value in self._teacher.outputs.items():
            if row[k]:
                self._kept[place.lane, k, number] = value
        self._teacher.outputs.clear()
        return out

    def _replaced(self, place: Place) -> Callable[[tuple[int, int]], Tensor | None]:
        row = self._schedule.compute[place.step]

        def value(call: tuple[int, int]) -> Tensor | None:
            if row[call[0]]:
                return None
            kept = self._kept[place.lane, call[0], call[1]]
            scale, shift = self._fits[place.step, call[0]].result()
            return kept * (1 + scale.to(kept)) + shift.to(kept)

        return value

    def fitted(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """scale and shift, [steps, branches, channels]."""
        steps, branches = self._schedule.compute.shape
        channels = next(iter(self._fits.values())).channels if self._fits else 1
        tables = np.zeros((2, steps, branches, channels), np.float32)
        for (s, k), fit in self._fits.items():
            tables[:, s, k] = torch.stack(fit.result()).float().cpu().numpy()
        return tables[0], tables[1]


class _Outputs:
    """The outputs of one pass, by call."""

    def __init__(self) -> None:
        self.outputs: dict[tuple[int, int], Tensor] = {}

    def see(self, seen: Seen) -> None:
        if len(seen.outputs) != 1:
            raise ValueError(
                f"fit_scale_shift: a branch gives {len(seen.outputs)} tensors, and a scale and "
                'shift is of one; use a schedule of branches, granularity="branch"'
            )
        self.outputs[seen.call] = seen.outputs[0].detach().clone()

    def end_evaluation(self, place: Place) -> None:
        """Nothing is left to do."""


class ChannelFit:
    """Least squares of y = a x + b for every channel, over all rows that were added."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Shapes: [..., D]."""
        x, y = (tensor.double().reshape(-1, tensor.shape[-1]) for tensor in (x, y))
        sums = torch.stack([part.sum(dim=0) for part in (x, y, x * x, x * y)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += len(x)

    @property
    def channels(self) -> int:
        assert self._sums is not None
        return int(self._sums.shape[1])

    def result(self) -> tuple[Tensor, Tensor]:
        """a - 1 and b, [D] float64; a is 1 where x does not vary."""
        assert self._sums is not None
        x, y, xx, xy = self._sums / self._count
        variance = xx - x * x
        varies = variance > 1e-9 * xx
        slope = torch.where(varies, (xy - x * y) / torch.where(varies, variance, 1.0), 1.0)
        return slope - 1, y - slope * x
