"""What the package ships of the demo: its model and its routers, without what pictures need."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from l2c_rt.demo.train_state import WEIGHTS_NAME
from l2c_rt.models.load import load_dit
from l2c_rt.policies.router import Router

ASSETS = Path(__file__).parent / "assets"


def load_demo_model() -> nn.Module:
    """The DiT that `l2c-rt demo train` made and the package ships."""
    return load_dit(ASSETS / WEIGHTS_NAME, num_heads=2).requires_grad_(False)


def load_demo_router(steps: int) -> Router:
    """The router that was learned for that model and DDIM with 20 or 50 steps."""
    return Router.load(ASSETS / f"digits-ddim-{steps}.safetensors", steps=steps)
