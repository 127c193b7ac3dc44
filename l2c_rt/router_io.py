"""Router files: the two published formats (.pt of DiT, .pth of U-ViT) and ours (.safetensors)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from l2c_rt.router import Router


def load_router(
    path: Path,
    family: str | None,
    steps: int | None,
    depth: int | None,
    branches: tuple[str, ...] | None,
) -> Router:
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    found = "dit" if "routers" in content else "uvit"
    table = content.get("routers", content)
    logits = np.stack([table[f"{row}.prob"].numpy() for row in range(len(table))])
    return Router(logits, family or found, len(logits), branches or (), source=path.name)
