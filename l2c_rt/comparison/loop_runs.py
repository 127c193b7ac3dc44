"""Whole runs of a loop of the user's own, with and without a cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l2c_rt.runtime.cache_context import StepHint
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.loop_model import LoopModel, Place

Loop = Callable[[nn.Module, int], Any]
"""loop(model, seed): one whole run that calls `model` where it would call the model itself.

It returns images: tensors, arrays or PIL images, first dimension the images, in any containers; or
a pipeline's output, of which `images`, `frames` or `sample` counts.
"""

FIELDS = ("images", "frames", "sample", "audios")


def images_of(result: Any) -> list[Tensor]:
    """What a loop returned as float32 tensors on the CPU, each [n, ...].

    Raises TypeError where there is nothing to compare in it.
    """
    named = [] if _is_image(result) else [getattr(result, name, None) for name in FIELDS]
    result = next((value for value in named if value is not None), result)
    leaves = tree_leaves(dict(result) if isinstance(result, Mapping) else result)
    tensors = [_tensor(leaf) for leaf in leaves if _is_image(leaf)]
    if not tensors:
        raise TypeError(
            f"loop: returned a {type(result).__name__}, wanted what a fit report can compare: "
            "tensors, arrays, PIL images, or a pipeline's output; return latents or images, or "
            "give report=0"
        )
    return tensors


def _is_image(leaf: Any) -> bool:
    # PIL's images say themselves how they are read as an array.
    return isinstance(leaf, Tensor | np.ndarray) or hasattr(leaf, "__array_interface__")


def _tensor(leaf: Any) -> Tensor:
    if isinstance(leaf, Tensor):
        values = leaf.detach().to("cpu", torch.float32)
    else:
        values = torch.from_numpy(np.asarray(leaf).astype(np.float32))
        values = values if isinstance(leaf, np.ndarray) else values[None]
    return values if values.dim() > 1 else values[None]


@dataclass(frozen=True, slots=True)
class LoopRuns:
    """Runs of one loop, one per seed: `seed`, `seed + 1`, ..."""

    loop: Loop
    seed: int
    count: int
    calls_per_step: int = 1

    cfg_scale: None = field(default=None, init=False)
    """The loop's own matter."""

    def latents(self, fast: Compiled) -> tuple[list[Tensor], list[Tensor]]:
        """The latents after every evaluation, all runs in one, and the images at the end.

        After the last evaluation they are what the loop returned; before, what the model is given
        at the next evaluation, in the first of several calls.
        """
        seen, images = list[list[Tensor]](), list[Tensor]()

        def look(place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if place.lane == 0 and place.step > 0:
                x = fast.bound_model.begin(*args, **kwargs).x
                seen[-1].append(x.detach().to("cpu", torch.float32).flatten())

        model = self._model(fast, look)
        for seed in range(self.seed, self.seed + self.count):
            seen.append([])
            model.begin_run()
            result = images_of(self.loop(model, seed))
            seen[-1].append(torch.cat([image.flatten() for image in result]))
            images += result
        return [torch.cat(parts) for parts in zip(*seen, strict=True)], images

    def run(self, fast: Compiled) -> None:
        """The same runs, unobserved."""
        model = self._model(fast, lambda *_: None)
        for seed in range(self.seed, self.seed + self.count):
            model.begin_run()
            self.loop(model, seed)

    def _model(
        self,
        fast: Compiled,
        look: Callable[[Place, tuple[Any, ...], dict[str, Any]], None],
    ) -> LoopModel:
        """What the loop is given: its calls go to `fast`, after a look at them."""
        steps = fast.schedule.steps

        def on_call(place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            look(place, args, kwargs)
            return fast.run.call(args, kwargs, StepHint(*place, steps))

        return LoopModel(fast.bound_model.model, self.calls_per_step, on_call)


_alone = threading.RLock()  # Of the process, as torch's own generators are.


@contextmanager
def isolated(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's own generators of the host and the device, which a loop may draw from, and put
    them back at the end; one loop at a time."""
    devices = [device] if device.type == "cuda" else []
    with _alone, torch.random.fork_rng(devices):
        # torch.manual_seed would seed every other device too.
        torch.default_generator.manual_seed(seed)
        for own in devices:
            with torch.cuda.device(own):
                torch.cuda.manual_seed(seed)
        yield
