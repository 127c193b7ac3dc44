"""Runs of published caching programs on a DiT, in reduced form: see tests/correctors/goldens.md.

Outputs are stored as their products with fixed random vectors: the root mean square of the
differences of these is, up to a quarter, the norm of the difference of the outputs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from l2c_rt.models import DiT

FOLDER = Path(__file__).parents[1] / "correctors" / "goldens"
VECTORS = 8

GuidedCall = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""x, t, labels and guidance scale to the guided output of a model."""


@dataclass(frozen=True)
class DitGolden:
    """One published run; `tokens` [T, 56] are those that went through each branch."""

    timesteps: tuple[int, ...]
    products: np.ndarray
    norms: np.ndarray
    tokens: np.ndarray
    seed: int
    labels: tuple[int, ...]
    guidance: float
    size: int

    @staticmethod
    def load(name: str) -> DitGolden:
        with np.load(FOLDER / f"{name}.npz") as arrays:
            return DitGolden(
                tuple(arrays["timesteps"].tolist()), arrays["products"], arrays["norms"],
                arrays["tokens"], int(arrays["seed"]), tuple(arrays["labels"].tolist()),
                float(arrays["cfg"]), int(arrays["size"]),
            )  # fmt: skip

    @property
    def compute(self) -> np.ndarray:
        """The branches that were computed."""
        computed: np.ndarray = self.tokens > 0
        return computed

    def worst_error(self, call: GuidedCall) -> float:
        """The largest relative error over the evaluations of a free run of a DDIM loop."""
        n = len(self.labels)
        generator = torch.Generator().manual_seed(self.seed)
        z = torch.randn(n, 4, self.size, self.size, generator=generator)
        labels = torch.tensor([*self.labels, *[10] * n])
        outputs = _ddim(lambda x, t: call(x, t, labels, self.guidance), z.repeat(2, 1, 1, 1),
                        self.timesteps)  # fmt: skip
        products = np.stack([products_of(out) for out in outputs])
        errors = np.sqrt(((products - self.products) ** 2).mean(axis=1)) / self.norms
        return float(errors.max())


def golden_dit(size: int) -> DiT:
    """The model of every golden: each parameter a function of its name and shape."""
    model = DiT(
        input_size=size, patch_size=2, hidden_size=64, depth=28, num_heads=4, num_classes=10
    )
    _fill(model)
    return model.eval()


def products_of(out: Tensor) -> np.ndarray:
    """The products of an output with the fixed vectors."""
    products: np.ndarray = (_vectors(out.numel()) @ out.double().flatten()).numpy()
    return products


@cache
def _vectors(size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(VECTORS, size)))


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    for key, value in model.state_dict().items():
        if key.endswith("pos_embed"):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        fan = value.numel() // value.shape[0] if value.dim() > 1 else 50
        std = (0.5 if "adaLN" in key else 1.0) / fan**0.5
        value.copy_(torch.randn(value.shape, generator=generator) * std)


@torch.no_grad()
def _ddim(
    call: Callable[[Tensor, Tensor], Tensor], z: Tensor, timesteps: Sequence[int]
) -> list[Tensor]:
    """DDIM with eta 0 and linear betas, in double precision between evaluations."""
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[list(timesteps)]
    following = np.append(kept[1:], 1.0)
    outputs = []
    for t, a, b in zip(timesteps, kept, following, strict=True):
        out = call(z, torch.full((len(z),), t))
        outputs.append(out)
        noise = out[:, :4].double()
        clean = (z.double() - (1 - a) ** 0.5 * noise) / a**0.5
        z = (b**0.5 * clean + (1 - b) ** 0.5 * noise).float()
    return outputs
