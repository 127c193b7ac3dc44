"""The state of a training run of the demo's DiT: its settings, its start, its checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from l2c_rt.demo.digits import NUM_CLASSES, SIZE
from l2c_rt.models.dit import DiT

WEIGHTS_NAME = "digits-dit.safetensors"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What decides the trained weights, bit for bit, on one machine."""

    steps: int
    seed: int
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    average: float = 0.999
    label_dropout: float = 0.1


@dataclass(slots=True)
class TrainState:
    """What a checkpoint holds."""

    model: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)

    def log(self) -> float:
        """Add the mean loss since the last entry to the curve, and return it."""
        self.losses.append((self.step, sum(self.recent) / len(self.recent)))
        self.recent.clear()
        return self.losses[-1][1]


def digits_dit() -> nn.Module:
    """The demo's DiT, 0.9 M parameters.

    patch 1 keeps the 64 pixels as 64 tokens. No learned sigma: DDIM with eta 0 never reads it,
    and an untrained half of the output would only be noise in the router's objective.
    """
    return DiT(
        input_size=SIZE,
        patch_size=1,
        in_channels=1,
        hidden_size=64,
        depth=12,
        num_heads=2,
        num_classes=NUM_CLASSES,
        class_dropout_prob=0.1,
        learn_sigma=False,
    )


def start(settings: TrainSettings) -> TrainState:
    """A fresh state: initial weights from the seed, the same in both copies."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = digits_dit()
    # eval: the model's own label dropout draws from the global generator; ours is in the labels.
    model.eval()
    averaged = digits_dit().eval().requires_grad_(False)
    averaged.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    return TrainState(model, averaged, optimizer)


def save_checkpoint(path: Path, state: TrainState, settings: TrainSettings) -> None:
    """Everything needed to go on, in a new file first so that a kill leaves the old one whole."""
    fresh = path.with_suffix(".partial")
    torch.save(
        {
            "settings": asdict(settings),
            "model": state.model.state_dict(),
            "averaged": state.averaged.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "seconds": state.seconds,
            "losses": state.losses,
            "recent": state.recent,
        },
        fresh,
    )
    fresh.replace(path)


def resume(path: Path, settings: TrainSettings) -> TrainState:
    """The state at `path`, or a fresh one if there is none.

    Raises: ValueError where the file was made with other settings.
    """
    state = start(settings)
    if not path.exists():
        return state
    saved = torch.load(path, weights_only=True)
    if saved["settings"] != asdict(settings):
        raise ValueError(
            f"{path} was made with {saved['settings']}, wanted {asdict(settings)}: "
            "delete it or train with its settings"
        )
    state.model.load_state_dict(saved["model"])
    state.averaged.load_state_dict(saved["averaged"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.seconds = saved["step"], saved["seconds"]
    state.losses, state.recent = saved["losses"], saved["recent"]
    return state
