"""Trains the demo's class-conditional DiT on the digits: noise prediction, dropped labels, AdamW.

Every random draw of step i comes from a generator seeded by (seed, i), so that a run that was
stopped and taken up again ends at the same weights as one that was not.
"""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from l2c_rt.demo.digits import NUM_CLASSES, Digits, load_digits
from l2c_rt.demo.train_state import (
    WEIGHTS_NAME,
    TrainSettings,
    TrainState,
    resume,
    save_checkpoint,
)
from l2c_rt.sampling.solvers import linear_alphas_bar
from l2c_rt.untrusted.atomic_write import write_whole

NUM_TIMESTEPS = 1000
LOG_EVERY = 50
LOG_NAME = "digits-dit.json"
CHECKPOINT_NAME = "digits-dit.checkpoint.safetensors"


def draw_batch(
    digits: Digits, settings: TrainSettings, step: int, signal: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy images, their timesteps, labels (some dropped to the null class) and the noise.

    The timesteps of a batch are spread evenly over the 1,000 with one shared random offset, which
    lowers the variance of the loss without changing its mean.
    """
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    count = settings.batch
    rows = torch.randint(len(digits), (count,), generator=generator)
    images, labels = digits.images[rows], digits.labels[rows]
    spread = (torch.arange(count) / count + torch.rand(1, generator=generator)) % 1.0
    t = (spread * NUM_TIMESTEPS).long().clamp(max=NUM_TIMESTEPS - 1)
    noise = torch.randn(images.shape, generator=generator)
    drop = torch.rand(count, generator=generator) < settings.label_dropout
    labels = torch.where(drop, NUM_CLASSES, labels)
    power = signal[t].view(-1, 1, 1, 1)
    noisy = power.sqrt().float() * images + (1.0 - power).sqrt().float() * noise
    return noisy, t, labels, noise


def rate_at(settings: TrainSettings, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def train_step(state: TrainState, settings: TrainSettings, digits: Digits, signal: Tensor) -> float:
    """One AdamW step on the noise prediction, then the moving average of the weights."""
    noisy, t, labels, noise = draw_batch(digits, settings, state.step, signal)
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(settings, state.step)
    loss = nn.functional.mse_loss(state.model(noisy, t, labels), noise)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.step += 1
    # A short memory at first, or the random initial weights would stay in the average.
    keep = min(settings.average, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for slow, fast in zip(state.averaged.parameters(), state.model.parameters(), strict=True):
            slow.lerp_(fast, 1.0 - keep)
    return float(loss.detach())


def write_result(out: Path, state: TrainState, settings: TrainSettings) -> Path:
    """The averaged weights and, beside them, the log: command, settings, versions, loss curve."""
    weights = {name: value.contiguous() for name, value in state.averaged.state_dict().items()}
    path = out / WEIGHTS_NAME
    write_whole(path, save(weights))
    log = {
        "command": f"l2c-rt demo train --steps {settings.steps} --seed {settings.seed}",
        "settings": asdict(settings),
        "parameters": sum(value.numel() for value in weights.values()),
        "seconds": round(state.seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "loss": [[step, round(loss, 5)] for step, loss in state.losses],
    }
    write_whole(out / LOG_NAME, json.dumps(log) + "\n")
    return path


def train_digits(
    out: Path,
    steps: int = 6000,
    seed: int = 0,
    *,
    checkpoint_every: int = 250,
    progress: bool = True,
) -> Path:
    """Train the demo's DiT and return the path of its weights.

    A checkpoint that a stopped run left in `out` is taken up again.
    """
    settings = TrainSettings(steps=steps, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / CHECKPOINT_NAME
    state = resume(checkpoint, settings)
    digits, signal = load_digits(), torch.from_numpy(linear_alphas_bar(NUM_TIMESTEPS))
    bar = tqdm(total=steps, initial=state.step, desc="train", unit="step", disable=not progress)
    with bar:
        while state.step < steps:
            begin = time.perf_counter()
            state.recent.append(train_step(state, settings, digits, signal))
            state.seconds += time.perf_counter() - begin
            bar.update()
            if state.step % LOG_EVERY == 0 or state.step == steps:
                bar.set_postfix(loss=f"{state.log():.4f}")
            if state.step % checkpoint_every == 0:
                save_checkpoint(checkpoint, state, settings)
    path = write_result(out, state, settings)
    checkpoint.unlink(missing_ok=True)
    return path
