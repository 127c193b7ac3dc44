"""Published weight files into our model definitions; the configuration is read off the shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from l2c_rt.models.dit import CONFIGS as DIT_SIZES
from l2c_rt.models.dit import DiT, DiTConfig
from l2c_rt.models.dit import config as dit_size
from l2c_rt.models.state_dicts import first
from l2c_rt.models.uvit import CONFIGS as UVIT_SIZES
from l2c_rt.models.uvit import UViT, UViTConfig
from l2c_rt.models.uvit import config as uvit_size
from l2c_rt.models.weight_files import Weights, open_weights

MAX_BLOCKS = 1000
USUAL_CLASSES = (10, 100, 1000)
Model = TypeVar("Model", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Layout(Generic[Model]):
    """A kind of model: what builds it from the options that are read off its weights' shapes.

    `anchor` is a parameter that every such model has; `width` is the option that is the model's
    width, in its published sizes too.
    """

    anchor: str
    build: Callable[..., Model]
    options: Callable[..., dict[str, Any]]
    width: str
    size: Callable[[str], DiTConfig | UViTConfig]
    sizes: Mapping[str, DiTConfig | UViTConfig]


def load_dit(
    path: str | Path,
    name: str | None = None,
    *,
    num_heads: int | None = None,
    num_classes: int | None = None,
    key: str = "",
) -> DiT:
    """A DiT in eval mode, in float32, from a local .safetensors, .pt, .pth, .ckpt or .bin file.

    The weights may lie in dicts ("ema" comes first, then "state_dict", "model", ...) and under
    prefixes ("module.", "_orig_mod.", "model.", ...); `key` says where, if there are several.
    The number of heads cannot be seen in the shapes: it is `num_heads`, or the header's "num_heads"
    (.safetensors), or the published one of that width.  `name`, such as "dit-xl-2", is checked
    against the file.  The last row of the label table is "no class", unless there are
    `num_classes` rows; without that argument, 10, 100 and 1000 rows are taken for as many classes.
    Raises: ValueError naming the file and what is missing, unexpected or mis-shaped; OSError.
    """
    return _loaded(_DIT, path, name, num_heads, key, {"num_classes": num_classes})


def load_uvit(
    path: str | Path, name: str | None = None, *, num_heads: int | None = None, key: str = ""
) -> UViT:
    """A U-ViT in eval mode, in float32, from a local file as for `load_dit`.

    `key`, heads, `name` and errors are as there.
    """
    return _loaded(_UVIT, path, name, num_heads, key, {})


def _loaded(
    layout: _Layout[Model],
    path: str | Path,
    name: str | None,
    num_heads: int | None,
    key: str,
    given: Mapping[str, int | None],
) -> Model:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; l2c_rt.models.load_diffusers takes those of diffusers")
    with open_weights(path, layout.anchor, key) as weights:
        size = layout.size(name) if name else None
        options = layout.options(weights.shapes, **given)
        width = options[layout.width]
        if size:
            got = (options["depth"], width, options["patch_size"])
            expected = (size.depth, getattr(size, layout.width), size.patch_size)
            if got != expected:
                raise ValueError(f"depth, width, patch are {got}, but {name} has {expected}")
        known = {getattr(each, layout.width): each.num_heads for each in layout.sizes.values()}
        heads = num_heads or (size.num_heads if size else _heads(weights, width, known))
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of num_heads={heads}")
        with torch.device("meta"):
            model = layout.build(**options, num_heads=heads)
        return _filled(model, weights)


def _dit_options(shapes: Shapes, num_classes: int | None) -> dict[str, Any]:
    width = _width(shapes, "blocks.0.attn.qkv.weight")
    patch = _patch(shapes, "x_embedder.proj.weight")
    tokens = _axis(shapes, "pos_embed", 3, 1)
    return {
        "hidden_size": width,
        "input_size": _side(tokens) * patch,
        "patch_size": patch,
        "in_channels": _axis(shapes, "x_embedder.proj.weight", 4, 1),
        "depth": _count(shapes, "blocks"),
        **_label_options(_axis(shapes, "y_embedder.embedding_table.weight", 2, 0), num_classes),
        "mlp_ratio": _mlp_ratio(shapes, "blocks.0", width),
        "learn_sigma": _learns_sigma(shapes, patch),
    }


def _uvit_options(shapes: Shapes) -> dict[str, Any]:
    width = _width(shapes, "mid_block.attn.qkv.weight")
    patch = _patch(shapes, "patch_embed.proj.weight")
    labelled = "label_emb.weight" in shapes
    tokens = _axis(shapes, "pos_embed", 3, 1) - (2 if labelled else 1)
    return {
        "embed_dim": width,
        "img_size": _side(tokens) * patch,
        "patch_size": patch,
        "in_chans": _axis(shapes, "patch_embed.proj.weight", 4, 1),
        "depth": 2 * _count(shapes, "in_blocks"),
        "num_classes": _axis(shapes, "label_emb.weight", 2, 0) if labelled else -1,
        "mlp_ratio": _mlp_ratio(shapes, "mid_block", width),
        "mlp_time_embed": "time_embed.0.weight" in shapes,
        "qkv_bias": "mid_block.attn.qkv.bias" in shapes,
        "conv": "final_layer.weight" in shapes,
        "skip": "out_blocks.0.skip_linear.weight" in shapes,
    }


_DIT = _Layout("blocks.0.attn.qkv.weight", DiT, _dit_options, "hidden_size", dit_size, DIT_SIZES)
_UVIT = _Layout(
    "mid_block.attn.qkv.weight", UViT, _uvit_options, "embed_dim", uvit_size, UVIT_SIZES
)


def _axis(shapes: Shapes, key: str, rank: int, axis: int) -> int:
    if key not in shapes:
        raise ValueError(f"no {key}; the file has {first(list(shapes)) or 'no tensors'}")
    shape = shapes[key]
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"{key} has shape {shape}, wanted {rank} axes, none of them empty")
    return shape[axis]


def _label_options(rows: int, num_classes: int | None) -> dict[str, Any]:
    """How many classes a label table of DiT has, and whether its last row is "no class".

    The shapes do not say. Guidance with a real class in place of "no class" would be wrong without
    a word, so the usual numbers of classes are taken for just that.
    """
    if num_classes is None:
        num_classes = rows if rows in (1, *USUAL_CLASSES) else rows - 1
    if rows - num_classes not in (0, 1) or num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}, but the label table has {rows} rows")
    return {"num_classes": num_classes, "class_dropout_prob": 0.1 * (rows - num_classes)}


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
        raise ValueError(f"pos_embed has {tokens} patches, which are not a square")
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
    text = weights.header.get("num_heads", "")
    if text.isdecimal() and len(text) < 5 and int(text):
        return int(text)
    if width not in known:
        raise ValueError(f"no published size has width {width}; give num_heads=")
    return known[width]


def _filled(model: Model, weights: Weights) -> Model:
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = weights.shapes
    mis_shaped = [
        f"{key} {shapes[key]} (wanted {shape})"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    reasons = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": [key for key in shapes if key not in expected],
        "mis-shaped": mis_shaped,
    }
    if any(reasons.values()):
        text = "; ".join(f"{what}: {first(keys)}" for what, keys in reasons.items() if keys)
        raise ValueError(f"not the weights of a {type(model).__name__}. {text}")
    state = {key: weights.read(key) for key in expected}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()
