"""Published weight files into our model definitions; the configuration is read off the shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from l2c_rt.models.dit import CONFIGS as DIT_SIZES
from l2c_rt.models.dit import DiT
from l2c_rt.models.dit import config as dit_size
from l2c_rt.models.uvit import CONFIGS as UVIT_SIZES
from l2c_rt.models.uvit import UViT
from l2c_rt.models.uvit import config as uvit_size
from l2c_rt.models.weight_files import Weights, first, open_weights

MAX_BLOCKS = 1000
Model = TypeVar("Model", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]


def load_dit(path: str | Path, name: str | None = None, *, num_heads: int | None = None) -> DiT:
    """A DiT in eval mode, in float32, from a local .safetensors, .pt or .pth file.

    A state dict, or one under the key "ema".  The number of heads cannot be seen in the shapes: it
    is `num_heads`, or the header's "num_heads" (.safetensors), or the published one of that width.
    `name`, such as "dit-xl-2", is checked against the file.  The last row of the label table is
    taken for "no class".
    Raises: ValueError naming the file and what is missing, unexpected or mis-shaped.
    """
    path = Path(path)
    weights = open_weights(path)
    try:
        size = dit_size(name) if name else None
        known = {c.hidden_size: c.num_heads for c in DIT_SIZES.values()}
        width = _width(weights.shapes, "blocks.0.attn.qkv.weight")
        heads = num_heads or (size.num_heads if size else _heads(weights, width, known))
        found = _dit_options(weights.shapes, width)
        if size:
            wanted = (size.depth, size.hidden_size, size.patch_size)
            _check_name(name, wanted, (found["depth"], width, found["patch_size"]))
        with torch.device("meta"):
            model = DiT(
                hidden_size=width,
                num_heads=heads,
                mlp_ratio=_mlp_ratio(weights.shapes, "blocks.0", width),
                learn_sigma=_learns_sigma(weights.shapes, found["patch_size"]),
                **found,
            )
        return _filled(model, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_uvit(path: str | Path, name: str | None = None, *, num_heads: int | None = None) -> UViT:
    """A U-ViT in eval mode, in float32, from a local .safetensors, .pt or .pth file.

    Heads, `name` and errors are as for `load_dit`.
    """
    path = Path(path)
    weights = open_weights(path)
    try:
        size = uvit_size(name) if name else None
        known = {c.embed_dim: c.num_heads for c in UVIT_SIZES.values()}
        width = _width(weights.shapes, "mid_block.attn.qkv.weight")
        heads = num_heads or (size.num_heads if size else _heads(weights, width, known))
        found = _uvit_options(weights.shapes)
        if size:
            wanted = (size.depth, size.embed_dim, size.patch_size)
            _check_name(name, wanted, (found["depth"], width, found["patch_size"]))
        with torch.device("meta"):
            model = UViT(
                embed_dim=width,
                num_heads=heads,
                mlp_ratio=_mlp_ratio(weights.shapes, "mid_block", width),
                mlp_time_embed="time_embed.0.weight" in weights.shapes,
                qkv_bias="mid_block.attn.qkv.bias" in weights.shapes,
                conv="final_layer.weight" in weights.shapes,
                skip="out_blocks.0.skip_linear.weight" in weights.shapes,
                **found,
            )
        return _filled(model, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _dit_options(shapes: Shapes, width: int) -> dict[str, int]:
    patch = _patch(shapes, "x_embedder.proj.weight")
    tokens = _axis(shapes, "pos_embed", 3, 1)
    return {
        "input_size": _side(tokens) * patch,
        "patch_size": patch,
        "in_channels": _axis(shapes, "x_embedder.proj.weight", 4, 1),
        "depth": _count(shapes, "blocks"),
        "num_classes": _axis(shapes, "y_embedder.embedding_table.weight", 2, 0) - 1,
    }


def _uvit_options(shapes: Shapes) -> dict[str, int]:
    patch = _patch(shapes, "patch_embed.proj.weight")
    labelled = "label_emb.weight" in shapes
    tokens = _axis(shapes, "pos_embed", 3, 1) - (2 if labelled else 1)
    return {
        "img_size": _side(tokens) * patch,
        "patch_size": patch,
        "in_chans": _axis(shapes, "patch_embed.proj.weight", 4, 1),
        "depth": 2 * _count(shapes, "in_blocks"),
        "num_classes": _axis(shapes, "label_emb.weight", 2, 0) if labelled else -1,
    }


def _axis(shapes: Shapes, key: str, rank: int, axis: int) -> int:
    if key not in shapes:
        raise ValueError(f"no {key}; the file has {first(list(shapes)) or 'no tensors'}")
    shape = shapes[key]
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"{key} has shape {shape}, wanted {rank} axes, none of them empty")
    return shape[axis]


# These two are checked before a model is built, so that its sizes are bounded by the file's.
def _width(shapes: Shapes, key: str) -> int:
    width = _axis(shapes, key, 2, 1)
    if shapes[key][0] != 3 * width:
        raise ValueError(f"{key} has shape {shapes[key]}, wanted three times as many rows")
    return width


def _patch(shapes: Shapes, key: str) -> int:
    patch = _axis(shapes, key, 4, 3)
    if shapes[key][2] != patch:
        raise ValueError(f"{key} has shape {shapes[key]}, whose patches are not square")
    return patch


def _side(tokens: int) -> int:
    side = math.isqrt(max(tokens, 0))
    if side < 1 or side * side != tokens:
        raise ValueError(f"pos_embed has {tokens} patches, which make no square")
    return side


def _count(shapes: Shapes, blocks: str) -> int:
    count = len({key.split(".")[1] for key in shapes if key.startswith(f"{blocks}.")})
    if not 1 <= count <= MAX_BLOCKS:
        raise ValueError(f"{count} {blocks}, wanted 1..{MAX_BLOCKS}")
    return count


def _mlp_ratio(shapes: Shapes, block: str, width: int) -> float:
    # The model rounds width * ratio down; the half keeps it from landing one below.
    return (_axis(shapes, f"{block}.mlp.fc1.weight", 2, 0) + 0.5) / width


def _learns_sigma(shapes: Shapes, patch: int) -> bool:
    channels = _axis(shapes, "x_embedder.proj.weight", 4, 1)
    return _axis(shapes, "final_layer.linear.weight", 2, 0) == 2 * channels * patch**2


def _heads(weights: Weights, width: int, known: Mapping[int, int]) -> int:
    said = weights.header.get("num_heads", "")
    if said.isdecimal() and len(said) < 5 and int(said):
        return int(said)
    if width not in known:
        raise ValueError(f"no published size has width {width}; give num_heads=")
    return known[width]


def _check_name(name: str | None, wanted: tuple[int, ...], got: tuple[int, ...]) -> None:
    if got != wanted:
        raise ValueError(f"depth, width, patch are {got}, but {name} has {wanted}")


def _filled(model: Model, weights: Weights) -> Model:
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = weights.shapes
    wrong = [
        f"{key} {shapes[key]} (wanted {shape})"
        for key, shape in wanted.items()
        if key in shapes and shapes[key] != shape
    ]
    reasons = {
        "missing": [key for key in wanted if key not in shapes],
        "unexpected": [key for key in shapes if key not in wanted],
        "mis-shaped": wrong,
    }
    if any(reasons.values()):
        text = "; ".join(f"{what}: {first(keys)}" for what, keys in reasons.items() if keys)
        raise ValueError(f"not the weights of a {type(model).__name__}. {text}")
    state = {key: weights.read(key) for key in wanted}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()
