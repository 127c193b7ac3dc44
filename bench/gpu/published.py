"""The published Learning-to-Cache program, run from the user's own clone; nothing of it is here.

Given --published PATH.  As shipped it runs in float32 with TF32 products; in bfloat16 its weights
and latents are cast, and the loop's arithmetic stays in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2c_rt.models import DiT

THRESHOLD = 0.1


def missing(clone: Path | None) -> str:
    """Why it cannot be run; "" where it can."""
    if clone is None:
        return "no clone given; see --published"
    source = clone / "DiT" / "models" / "dynamic_models.py"
    if not source.is_file():
        return f"{source} is not there"
    timm = importlib.util.find_spec("timm")
    return "" if timm else "timm is not installed, which the published program imports"


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Its packages are called `models` and `diffusion`: on the path only while they are used."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("models", "diffusion"):
                del sys.modules[name]


def run_of(
    clone: Path, weights: DiT, steps: int, dtype: torch.dtype, *, guided: bool = True
) -> Callable[[Tensor, Tensor], Tensor]:
    """The published cached run as a function (noise, y) -> latents, with these weights.

    Shapes: noise and result [n, 4, H, W]; y [n].  `steps` is 20 or 50, whose routers it has.
    """
    model, diffusion = _load(clone / "DiT", weights, steps)
    model = model.to(weights.pos_embed.device, dtype).eval().requires_grad_(False)
    # Its sinusoids are float32 whatever the weights are.
    model.t_embedder.mlp.register_forward_pre_hook(lambda _, args: (args[0].to(dtype),))

    def forward(x: Tensor, t: Tensor, **arguments: Any) -> Tensor:
        call = model.forward_with_cfg if guided else model
        out: Tensor = call(x.to(dtype), t, **arguments)
        return out.to(x.dtype)

    def run(noise: Tensor, y: Tensor) -> Tensor:
        arguments: dict[str, Any] = {"y": y}
        if guided:
            null = torch.full_like(y, weights.y_embedder.num_classes)
            noise, arguments = (
                torch.cat([noise, noise]),
                {"y": torch.cat([y, null]), "cfg_scale": 4.0},
            )
        model.reset()
        with torch.no_grad(), tf32(dtype == torch.float32):
            latents: Tensor = diffusion.ddim_sample_loop(
                forward, noise.shape, noise, clip_denoised=False, model_kwargs=arguments,
                progress=False, device=noise.device,
            )  # fmt: skip
        return latents[: len(y)]

    return run


def _load(program: Path, weights: DiT, steps: int) -> tuple[Any, Any]:
    """The published model with these weights and its router, and the published diffusion."""
    with importable(program):
        model = importlib.import_module("models.dynamic_models").DiT(
            input_size=weights.x_embedder.grid * weights.patch_size,
            patch_size=weights.patch_size,
            hidden_size=weights.pos_embed.shape[-1],
            depth=len(weights.blocks),
            num_heads=weights.num_heads,
            num_classes=weights.y_embedder.num_classes,
        )
        diffusion = importlib.import_module("diffusion").create_diffusion(str(steps))
        router = str(program / "ckpt" / f"DDIM{steps}_router.pt")
        # The file holds an argparse.Namespace, which torch's safe loader must be told of.
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            model.load_ranking(router, steps, diffusion.timestep_map, THRESHOLD)
    model.load_state_dict(weights.state_dict())
    return model, diffusion


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """The published program's setting while it runs."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
