"""A pipeline of diffusers as what methods are compared on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.api import Schedulable
from l2c_rt.comparison.loop_runs import images_of
from l2c_rt.comparison.subjects import Observed
from l2c_rt.pipelines.enable import MODELS, enable
from l2c_rt.runtime.compiled import Compiled

PipelineLoop = Callable[[Any, int], Any]
"""loop(pipe, seed): one call of the pipeline; it returns what `Loop` says."""


@dataclass
class PipelineSubject:
    """Its models are compiled for each method by themselves, and stand in it while it runs."""

    pipe: Any
    steps: int
    loop: PipelineLoop
    backend: str
    cfg_scale: float | None = None
    peak: float | None = None

    @property
    def name(self) -> str:
        return type(self.pipe).__name__

    @property
    def modules(self) -> Sequence[nn.Module]:
        parts = [getattr(self.pipe, name, None) for name in MODELS]
        return [part for part in parts if isinstance(part, nn.Module)]

    def build(self, method: Schedulable, options: Mapping[str, Any]) -> Sequence[Compiled]:
        settings: dict[str, Any] = {"steps": self.steps, "backend": self.backend, **options}
        enabled = enable(self.pipe, method, **settings)
        for name, model in enabled.models.items():
            setattr(self.pipe, name, model.bound_model.model)
        return tuple(enabled.models.values())

    def observe(self, models: Sequence[Compiled], seed: int) -> Observed:
        """The latents are what the models are given at the next evaluation, and at the end what the
        loop returns."""
        seen: list[Tensor] = []
        hooks = [
            model.register_forward_pre_hook(partial(_look, seen), with_kwargs=True)
            for model in models
        ]
        try:
            with self._in_place(models):
                images = images_of(self.loop(self.pipe, seed))
        finally:
            for hook in hooks:
                hook.remove()
        return Observed([*seen[1:], torch.cat([image.flatten() for image in images])], images)

    def run(self, models: Sequence[Compiled], seed: int) -> None:
        with self._in_place(models):
            self.loop(self.pipe, seed)

    @contextmanager
    def _in_place(self, models: Sequence[Compiled]) -> Iterator[None]:
        """The pipeline with these models in it, and then with its own again."""
        own = {name: getattr(self.pipe, name, None) for name in MODELS}
        try:
            for model in models:
                (name,) = [name for name, part in own.items() if part is model.bound_model.model]
                setattr(self.pipe, name, model)
            yield
        finally:
            for name, part in own.items():
                if part is not None:
                    setattr(self.pipe, name, part)


def _look(seen: list[Tensor], model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep what the model is given: all calls of one evaluation, as for guidance, the same."""
    x = model.bound_model.begin(*args, **kwargs).x.detach().to("cpu", torch.float32).flatten()
    if not seen or not torch.equal(seen[-1], x):
        seen.append(x)
