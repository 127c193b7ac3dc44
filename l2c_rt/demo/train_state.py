"""The state of a training run of the demo's DiT: its settings, its start, its checkpoint."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from l2c_rt.demo.digits import NUM_CLASSES, SIZE
from l2c_rt.models.dit import DiT
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

FORMAT = "l2c_rt.demo.training"
VERSION = "1"
MAX_BYTES = 1 << 28
MOMENTS = ("exp_avg", "exp_avg_sq")
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
        torch.default_generator.manual_seed(settings.seed)
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
    """Everything needed to go on, whole or not at all."""
    tensors = {
        f"{part}.{name}": value.contiguous()
        for part, module in (("model", state.model), ("averaged", state.averaged))
        for name, value in module.state_dict().items()
    }
    for k, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{k}.{name}": value for name, value in moments.items()}
    header = {
        "step": state.step,
        "seconds": state.seconds,
        "losses": state.losses,
        "recent": state.recent,
    }
    metadata = {"format": FORMAT, "version": VERSION, "settings": json.dumps(asdict(settings))}
    write_whole(path, save(tensors, metadata | {"state": json.dumps(header)}))


def resume(path: Path, settings: TrainSettings) -> TrainState:
    """The state at `path`, or a fresh one if there is none.

    Raises: ValueError where the file is damaged or was made with other settings; OSError.
    """
    state = start(settings)
    if not path.exists():
        return state
    content = read_bounded(path, MAX_BYTES, "checkpoint")
    with naming(path):
        file = SafetensorsFile(io.BytesIO(content), len(content))
        header = _checked_header(file.metadata, settings)
        _restore(state, file)
    state.step, state.seconds = header["step"], float(header["seconds"])
    state.losses = [(step, loss) for step, loss in header["losses"]]
    state.recent = header["recent"]
    return state


def _checked_header(metadata: Mapping[str, str], settings: TrainSettings) -> dict[str, Any]:
    file_format = (metadata.get("format"), metadata.get("version"))
    if file_format != (FORMAT, VERSION) or not {"settings", "state"} <= metadata.keys():
        raise ValueError(f"not a checkpoint of {FORMAT} {VERSION}; delete it")
    if parse_json(metadata["settings"].encode()) != asdict(settings):
        raise ValueError(
            f"was made with {metadata['settings']:.300}, wanted {asdict(settings)}: delete it or "
            "train with its settings"
        )
    header = parse_json(metadata["state"].encode())
    if not isinstance(header, dict) or header.keys() != {"step", "seconds", "losses", "recent"}:
        raise ValueError("its state is damaged; delete it")
    step, losses, recent = header["step"], header["losses"], header["recent"]
    if type(step) is not int or not 0 <= step <= settings.steps or not _number(header["seconds"]):
        raise ValueError(f"it stopped at step {step!r:.40}, wanted 0..{settings.steps}; delete it")
    if not isinstance(recent, list) or not isinstance(losses, list):
        raise ValueError("its losses are not lists; delete it")
    pairs = all(isinstance(pair, list) and len(pair) == 2 for pair in losses)
    if not pairs or not all(_number(v) for v in (*recent, *(v for pair in losses for v in pair))):
        raise ValueError("its losses are not numbers; delete it")
    return header


def _number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # type: ignore[arg-type]


def _restore(state: TrainState, file: SafetensorsFile) -> None:
    """Both copies of the weights and AdamW's moments, each of the shape that they have."""
    parts = {"model": state.model, "averaged": state.averaged}
    expected = {
        f"{part}.{name}": value.shape
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    for k, parameter in enumerate(trained):
        expected |= {f"optimizer.{k}.{name}": parameter.shape for name in MOMENTS}
        expected[f"optimizer.{k}.step"] = torch.Size(())
    found = {name: torch.Size(entry.shape) for name, entry in file.entries.items()}
    odd = sorted({*found.items()} ^ {*expected.items()})[:3]
    if odd or any(entry.kind != "F32" for entry in file.entries.values()):
        raise ValueError(f"its tensors are not this run's: {odd!r:.200}; delete it")
    tensors = {
        name: torch.frombuffer(file.read(file.entries[name]), dtype=torch.float32).reshape(shape)
        for name, shape in expected.items()
    }
    for part, module in parts.items():
        own = {name: tensors[f"{part}.{name}"] for name in module.state_dict()}
        module.load_state_dict(own)
    for k, parameter in enumerate(trained):
        moments = {name: tensors[f"optimizer.{k}.{name}"] for name in ("step", *MOMENTS)}
        state.optimizer.state[parameter] = moments
