"""Small models with drawn weights, and files of them in both formats."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from weights import fill_deterministic

SMALL_DIT = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
SMALL_UVIT = {"img_size": 8, "patch_size": 2, "in_chans": 4, "num_classes": 11}
SMALL_UVIT |= {"embed_dim": 32, "depth": 2, "num_heads": 2}


def filled(build, config):
    model = build(**config).eval()
    fill_deterministic(model, seed=3)
    return model


def write(path, state, **header):
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path, metadata=header or None)
    else:
        torch.save(state, path)
    return path
