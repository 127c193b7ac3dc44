"""What methods are compared on: a model in its published loop, or in a loop of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.api import Schedulable, compile
from l2c_rt.comparison.loop_runs import Loop, LoopRuns
from l2c_rt.comparison.runs import RunInputs
from l2c_rt.runtime.compiled import Compiled

PEAK = 2.0
"""Of images in [-1, 1]."""

Decode = Callable[[Tensor], Tensor]
"""Latents [n, C, H, W] to images in [-1, 1]."""


class Observed(NamedTuple):
    """A whole run: the latents after every evaluation, and images [n, ...] where there are any."""

    latents: list[Tensor]
    images: list[Tensor]


class Subject(Protocol):
    """A model or pipeline with its loop; a method on it is one compiled model or several.

    `peak` is the range of its images, None where the full run's images say it.
    """

    steps: int
    peak: float | None
    cfg_scale: float | None

    @property
    def name(self) -> str: ...

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The models as they are without a method."""
        ...

    def build(self, method: Schedulable, options: Mapping[str, Any]) -> Sequence[Compiled]: ...

    def observe(self, models: Sequence[Compiled], seed: int) -> Observed: ...

    def run(self, models: Sequence[Compiled], seed: int) -> None:
        """The same run, unobserved, for a clock."""
        ...


@dataclass
class PublishedLoopSubject:
    """A model in its family's published loop, `images` at once."""

    model: nn.Module
    steps: int
    images: int
    cfg_scale: float | None
    backend: str
    decode: Decode | None = None
    peak: float | None = PEAK

    def __post_init__(self) -> None:
        self.bound_model = adapters.bind(self.model)
        inputs = self._inputs(0)
        self.cfg_scale = inputs.cfg_scale
        if self.decode is None and inputs.noise.shape[1] in (1, 3):
            self.decode = lambda latents: latents

    @property
    def name(self) -> str:
        return type(self.bound_model.model).__name__

    @property
    def modules(self) -> Sequence[nn.Module]:
        return (self.model,)

    def build(self, method: Schedulable, options: Mapping[str, Any]) -> Sequence[Compiled]:
        settings: dict[str, Any] = {"steps": self.steps, "backend": self.backend, **options}
        return (compile(self.model, method, **settings),)

    def observe(self, models: Sequence[Compiled], seed: int) -> Observed:
        latents, _ = self._inputs(seed).latents(models[0])
        return Observed(latents, [] if self.decode is None else [self.decode(latents[-1])])

    def run(self, models: Sequence[Compiled], seed: int) -> None:
        self._inputs(seed).run(models[0])

    def _inputs(self, seed: int) -> RunInputs:
        return RunInputs.drawn("compare", self.bound_model, self.images, self.cfg_scale, seed)


@dataclass
class OwnLoopSubject:
    """A model in a loop of the user's own, one run for a seed."""

    model: nn.Module
    steps: int
    loop: Loop
    calls_per_step: int
    backend: str

    cfg_scale: float | None = None
    peak: float | None = None

    @property
    def name(self) -> str:
        return type(self.model).__name__

    @property
    def modules(self) -> Sequence[nn.Module]:
        return (self.model,)

    def build(self, method: Schedulable, options: Mapping[str, Any]) -> Sequence[Compiled]:
        settings: dict[str, Any] = {"steps": self.steps, "backend": self.backend, **options}
        return (compile(self.model, method, calls_per_step=self.calls_per_step, **settings),)

    def observe(self, models: Sequence[Compiled], seed: int) -> Observed:
        return Observed(*self._runs(seed).latents(models[0]))

    def run(self, models: Sequence[Compiled], seed: int) -> None:
        self._runs(seed).run(models[0])

    def _runs(self, seed: int) -> LoopRuns:
        return LoopRuns(self.loop, seed, 1, self.calls_per_step)


def span(images: Sequence[Tensor]) -> float:
    """From the darkest to the brightest value of all images; 1 where all are one."""
    values = [value for part in images for value in torch.aminmax(part)]
    return float(max(values) - min(values)) or 1.0
