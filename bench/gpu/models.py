"""The cases of the suite, and the models, noise and references that they share."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from weights import deterministic

import l2c_rt as rt
from l2c_rt.models import DiT, UViT
from l2c_rt.policies import Full
from l2c_rt.presets import load
from l2c_rt.schedule.cache_schedule import CacheSchedule

IMAGES = (1, 8, 32, 64)
REFERENCE_IMAGES = 2
"""Images do not see each other, so the first two of a batch stand for all in comparisons."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model of the published size, run by one of the published schedules."""

    model: str
    preset: str

    @property
    def name(self) -> str:
        return f"{self.model}.{self.preset.rpartition('/')[2]}"

    def schedule(self) -> CacheSchedule:
        return load(self.preset)


CASES = (
    Case("dit-xl-2-256", "l2c/dit-xl-2-256/ddim-50"),
    Case("dit-xl-2-256", "l2c/dit-xl-2-256/ddim-20"),
    Case("dit-xl-2-512", "l2c/dit-xl-2-256/ddim-50"),
    Case("uvit-h-2-256", "l2c/uvit-h-2-256/dpm-50"),
    Case("uvit-h-2-256", "l2c/uvit-h-2-256/dpm-20"),
)

MAKERS: dict[str, Callable[[], nn.Module]] = {
    "dit-xl-2-256": lambda: DiT(input_size=32),
    "dit-xl-2-512": lambda: DiT(input_size=64),
    "uvit-h-2-256": lambda: UViT(
        img_size=32, patch_size=2, in_chans=4, embed_dim=1152, depth=28, num_heads=16,
        num_classes=1001, conv=False,
    ),
    "diffusers-dit-xl-2-256": lambda: _diffusers_dit(32),
    "diffusers-dit-xl-2-512": lambda: _diffusers_dit(64),
}  # fmt: skip


def _diffusers_dit(size: int) -> nn.Module:
    diffusers: Any = importlib.import_module("diffusers")
    made: nn.Module = diffusers.DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8,
        num_layers=28, sample_size=size, patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return made


def _empty(make: Callable[[], nn.Module]) -> nn.Module:
    """A model whose weights are not yet set, without spending time on its initialisation."""
    with torch.device("meta"):
        made = make()
    stored = made.state_dict()
    if all(name in stored for name, _ in made.named_buffers()):
        return made.to_empty(device="cpu")
    # It computes a buffer that no weights file holds.
    return make()


def fill(model: nn.Module, seed: int = 0, threads: int = 8) -> None:
    """`weights.fill_deterministic` on several threads: the big models have 6e8 weights."""
    found = model.state_dict(keep_vars=True)

    def one(name: str) -> None:
        with torch.no_grad():
            found[name].copy_(deterministic(name, tuple(found[name].shape), seed))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, found))


@dataclass
class Rig:
    """What the parts of one run share: the device, the dtype, and models made once.

    Models are in `dtype`; references run the same rounded weights in float32.
    """

    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    makers: dict[str, Callable[[], nn.Module]] = field(default_factory=lambda: dict(MAKERS))
    models: dict[str, nn.Module] = field(default_factory=dict)
    references: dict[Any, tuple[Tensor, float]] = field(default_factory=dict)

    def model(self, name: str) -> nn.Module:
        """The model of that name, with deterministic weights, made at the first call."""
        if name not in self.models:
            self.models[name] = self.fresh(name)
        return self.models[name]

    def fresh(self, name: str) -> nn.Module:
        """The same weights in a model of its own, for a program that patches what it is given."""
        made = _empty(self.makers[name])
        fill(made)
        return made.requires_grad_(False).eval().to(self.device, self.dtype)

    def noise(self, model: nn.Module, images: int) -> tuple[Tensor, Tensor]:
        """The first images of the largest batch, and labels.  Shapes: [n, C, H, W] fp32, [n]."""
        how = rt.adapters.bind(model).sampling
        assert how is not None
        generator = torch.Generator().manual_seed(0)
        shape = (max(IMAGES), how.channels, how.size, how.size)
        noise = torch.randn(shape, generator=generator)[:images]
        labels = torch.arange(images) * 37 % how.classes
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
            error = float((plain - exact).norm() / exact.norm())
            self.references[key] = exact.cpu(), error
        return self.references[key]

    def _reference_run(
        self, model: nn.Module, schedule: CacheSchedule | None, steps: int
    ) -> Tensor:
        noise, y = self.noise(model, REFERENCE_IMAGES)
        return compiled(model, schedule, steps, backend="reference").sample(noise, y)

    def bound(self, error: float) -> float:
        """How far a variant may be from the float32 reference: twice the eager program's own error
        in the rig's dtype, and never less than float32's rounding over a run."""
        return max(2.0 * error, 2e-5)

    def forget(self) -> None:
        """Give models, references and the device's cached memory back."""
        self.models.clear()
        self.references.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def compiled(
    model: nn.Module, schedule: CacheSchedule | None, steps: int, **options: Any
) -> rt.Compiled:
    """l2c_rt's own program for a schedule, or for the uncached run."""
    if schedule is None:
        return rt.compile(model, Full(), steps=steps, **options)
    return rt.compile(model, schedule, **options)
