"""Stored outputs of published caching methods, and the DiT of those that are for DiT.

Of each evaluation a sample of the output is stored, every k-th element, or, in a `DitGolden`, its
products with fixed random vectors: the root mean square of the differences of these is, up to a
quarter, the norm of the difference of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from named_weights import fill_named
from published_loops import ddim_sample_loop
from published_outputs import FOLDER, relative
from safetensors.torch import load_file
from torch import Tensor

from l2c_rt.models import DiT

REDUCED = Path(__file__).parents[1] / "correctors" / "goldens"
VECTORS = 8


def golden(name: str, case: str) -> dict[str, Tensor]:
    """The tensors of one case of a file, without the case's name."""
    arrays = load_file(FOLDER / f"{name}.safetensors")
    return {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{case}/")}


def worst_evaluation(outputs: list[Tensor], sampled: Tensor) -> float:
    """The largest relative difference of an evaluation's output to its stored sample."""
    differences = []
    for out, expected in zip(outputs, sampled, strict=True):
        flat = out.flatten()
        differences.append(
            relative(flat[:: flat.numel() // len(expected)][: len(expected)], expected)
        )
    return max(differences)


def dit_28(size: int = 8) -> DiT:
    """DiT of the published structure, 28 blocks of width 64."""
    model = DiT(
        input_size=size, patch_size=2, hidden_size=64, depth=28, num_heads=4, num_classes=10
    )
    fill_named(model, {"adaLN": 0.5})
    return model


def dit_outputs(fast: Any, arrays: dict[str, Tensor], steps: int) -> list[Tensor]:
    """What the guided model gives at each evaluation of DDIM, guidance 4."""
    seed, labels = int(arrays["seed"]), arrays["labels"].long()
    noise = torch.randn(len(labels), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    outputs: list[Tensor] = []
    ddim_sample_loop(
        fast.forward_with_cfg, noise, labels, 10, steps, 4.0, lambda step, out: outputs.append(out)
    )
    return outputs


GuidedCall = Callable[..., Tensor]
"""x, t, labels and cfg_scale to the guided output of a model."""


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
        with np.load(REDUCED / f"{name}.npz") as arrays:
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
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(len(self.labels), 4, self.size, self.size, generator=generator)
        outputs: list[Tensor] = []
        with torch.no_grad():
            ddim_sample_loop(
                call, noise, torch.tensor(self.labels), 10, len(self.timesteps), self.guidance,
                lambda step, out: outputs.append(out),
            )  # fmt: skip
        products = np.stack([products_of(out) for out in outputs])
        errors = np.sqrt(((products - self.products) ** 2).mean(axis=1)) / self.norms
        return float(errors.max())


def products_of(out: Tensor) -> np.ndarray:
    """The products of an output with the fixed vectors."""
    products: np.ndarray = (_vectors(out.numel()) @ out.double().flatten()).numpy()
    return products


@cache
def _vectors(size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(VECTORS, size)))


def as_rows(table: np.ndarray) -> list[list[int]]:
    return table.astype(int).tolist()
