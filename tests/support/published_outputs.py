"""Reads tests/goldens: outputs of the published programs with deterministic weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor, nn
from weights import fill_deterministic

from l2c_rt.models import DiT, UViT

FOLDER = Path(__file__).parents[1] / "ladder" / "goldens"
NAMES = ("dit-ddim-20", "dit-ddim-50", "uvit-dpm-20", "uvit-dpm-50")


@dataclass(frozen=True)
class Golden:
    """One published run; see tests/goldens/README.md for the fields."""

    family: str
    sampler: str
    steps: int
    lanes: int
    router: str
    threshold: float
    guidance: float
    null_label: int
    config: dict
    weights: dict
    compute: np.ndarray
    noise: Tensor
    labels: Tensor
    timesteps: Tensor
    cached: Tensor
    full: Tensor
    cached_predictions: Tensor
    full_predictions: Tensor

    @staticmethod
    def load(name: str) -> Golden:
        with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
            header, keys = file.metadata(), file.keys()
            tensors = {key: file.get_tensor(key) for key in keys}
        return Golden(
            family=header["family"],
            sampler=header["sampler"],
            steps=int(header["steps"]),
            lanes=int(header["lanes"]),
            router=header["router"],
            threshold=float(header["threshold"]),
            guidance=float(header["guidance"]),
            null_label=int(header["null_label"]),
            config=json.loads(header["config"]),
            weights=json.loads(header["weights"]),
            compute=tensors.pop("compute").numpy(),
            **tensors,
        )

    def model(self) -> nn.Module:
        """Our model with the weights of that run."""
        model = {"dit": DiT, "uvit": UViT}[self.family](**self.config)
        fill_deterministic(model, **self.weights)
        return model.eval()


def relative(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()
