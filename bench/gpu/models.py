"""The cases of the suite, and the models, noise and references that its measurements share."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from weights import deterministic

import l2c_rt as rt
from l2c_rt.adapters import bind
from l2c_rt.measure.clocks import Clock, clock_for
from l2c_rt.models import DiT, UViT
from l2c_rt.policies import Full
from l2c_rt.presets import load
from l2c_rt.schedule.cache_schedule import CacheSchedule

IMAGES = (1, 8, 32, 64)
REFERENCE_IMAGES = 2
"""Images do not see each other, so the first two of a batch stand for all in comparisons."""

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """A model of the published size, run by one of the published schedules."""

    model: str
    preset: str

    @property
    def name(self) -> str:
        return f"{self.model}.{self.preset.rpartition('/')[2]}"

    @property
    def has_delta_form(self) -> bool:
        """Whether the model has long skips and no gates."""
        return self.model.startswith("uvit")

    def schedule(self) -> CacheSchedule:
        return load(self.preset)


CASES = (
    Case("dit-xl-2-256", "l2c/dit-xl-2-256/ddim-50"),
    Case("dit-xl-2-256", "l2c/dit-xl-2-256/ddim-20"),
    Case("uvit-h-2-256", "l2c/uvit-h-2-256/dpm-50"),
    Case("uvit-h-2-256", "l2c/uvit-h-2-256/dpm-20"),
    Case("dit-xl-2-512", "l2c/dit-xl-2-256/ddim-50"),
)


def diffusers_dit(size: int, blocks: int = 28, heads: int = 16, head_width: int = 72) -> nn.Module:
    """diffusers' DiT for latents of that side, by default of DiT-XL/2's size."""
    diffusers: Any = importlib.import_module("diffusers")
    model: nn.Module = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=head_width, in_channels=4, out_channels=8,
        num_layers=blocks, sample_size=size, patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return model


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "dit-xl-2-256": lambda: DiT(input_size=32),
    "dit-xl-2-512": lambda: DiT(input_size=64),
    "uvit-h-2-256": lambda: UViT(
        img_size=32, patch_size=2, in_chans=4, embed_dim=1152, depth=28, num_heads=16,
        num_classes=1001, conv=False,
    ),
    "diffusers-dit-xl-2-256": lambda: diffusers_dit(32),
    "diffusers-dit-xl-2-512": lambda: diffusers_dit(64),
}  # fmt: skip


def inductor(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile at its best for one fixed shape; a graph break is an error, never silent."""
    return torch.compile(function, mode="max-autotune-no-cudagraphs", fullgraph=True, dynamic=False)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is measured: about `seconds` per program; single operations `calls` at a time, of
    which the median over `repeats` counts; the ceilings' copy and product are of these sizes."""

    seconds: float = 2.0
    least_rounds: int = 2
    calls: int = 20
    repeats: int = 7
    copied_bytes: int = 8 << 30
    product_size: int = 8192


@dataclass
class Rig:
    """The device, and the models that the measurements of one session share, each made once.

    Models are in `dtype`; references run the same rounded weights in float32.  `compile` is how
    peers are compiled, `published` a clone of the published program.
    """

    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    makers: dict[str, Callable[[], nn.Module]] = field(default_factory=lambda: dict(MAKERS))
    compile: Compile = inductor
    published: Path | None = None
    effort: Effort = Effort()
    models: dict[str, nn.Module] = field(default_factory=dict)
    references: dict[Any, tuple[Tensor, float]] = field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        return clock_for(self.device)

    def model(self, name: str) -> nn.Module:
        """The model of that name, with deterministic weights, made at the first call."""
        if name not in self.models:
            self.models[name] = self.fresh(name)
        return self.models[name]

    def fresh(self, name: str) -> nn.Module:
        """The same weights in a model of its own, for a program that patches its model."""
        # Made on the device, where its own initialisation, which is written over, takes no time.
        with self.device:
            model = self.makers[name]()
        _fill_on_threads(model)
        return model.requires_grad_(False).eval().to(self.device, self.dtype)

    def noise(self, model: nn.Module, images: int) -> tuple[Tensor, Tensor]:
        """The first images of the largest batch, and labels.  Shapes: [n, C, H, W] fp32, [n]."""
        loop = bind(model).sampling
        assert loop is not None
        generator = torch.Generator().manual_seed(0)
        shape = (max(IMAGES), loop.channels, loop.size, loop.size)
        noise = torch.randn(shape, generator=generator)[:images]
        labels = torch.arange(images) * 37 % loop.classes
        return noise.to(self.device), labels.to(self.device)

    def reference(
        self, name: str, schedule: CacheSchedule | None, steps: int
    ) -> tuple[Tensor, float]:
        """Latents of the first images by the reference backend in float32, and the relative
        difference of the same backend in the rig's dtype; `schedule` None is the uncached run."""
        key = name, None if schedule is None else schedule.digest, steps
        if key not in self.references:
            model = self.model(name)
            exact = self._reference_run(copy.deepcopy(model).float(), schedule, steps)
            plain = self._reference_run(model, schedule, steps)
            self.references[key] = exact.cpu(), relative_difference(plain, exact)
        return self.references[key]

    def _reference_run(
        self, model: nn.Module, schedule: CacheSchedule | None, steps: int
    ) -> Tensor:
        noise, y = self.noise(model, REFERENCE_IMAGES)
        return compiled(model, schedule, steps, backend="reference").sample(noise, y)


def compiled(
    model: nn.Module, schedule: CacheSchedule | None, steps: int, **options: Any
) -> rt.Compiled:
    """Our own program for a schedule, or for the uncached run."""
    if schedule is None:
        return rt.compile(model, Full(), steps=steps, **options)
    return rt.compile(model, schedule, **options)


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected| in float64; NaN where either has one."""
    expected = expected.double().cpu()
    return float((actual.double().cpu() - expected).norm() / expected.norm())


def _fill_on_threads(model: nn.Module, threads: int = 8) -> None:
    """`weights.fill_deterministic` on several threads: the big models have 6e8 weights."""
    tensors = model.state_dict(keep_vars=True)

    def fill(name: str) -> None:
        with torch.no_grad():
            tensors[name].copy_(deterministic(name, tuple(tensors[name].shape), 0))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, tensors))
