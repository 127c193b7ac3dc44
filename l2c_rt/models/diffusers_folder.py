"""A folder that diffusers' save_pretrained wrote: config.json and weights, whole or in shards.

Untrusted like any weight file: sizes that the configuration claims are checked against the weights'
shapes before memory is taken, shards must lie in the folder, and tensors are read one by one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.models.state_dicts import first
from l2c_rt.models.weight_files import FLOATS, tensor_of
from l2c_rt.untrusted.bounded_read import naming, open_regular, parse_json, read_bounded
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model"
CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
"""The second is what DiT's class was called before."""

MAX_JSON_BYTES = 8 << 20
MAX_SIZES = {"num_layers": 1000, "num_attention_heads": 1024, "attention_head_dim": 1024,
             "in_channels": 4096, "out_channels": 4096, "sample_size": 1024, "patch_size": 64,
             "num_embeds_ada_norm": 1 << 20}  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


def load_diffusers(folder: str | Path, *, variant: str = "") -> nn.Module:
    """diffusers' DiTTransformer2DModel in eval mode, in float32, from a local folder.

    The folder holds config.json and diffusion_pytorch_model.safetensors, or shards of it and their
    index; that of a whole pipeline has it under transformer/. `variant`, such as "fp16", is the
    part of the files' names that diffusers calls so.
    Raises: ValueError naming the file and what is wrong with it; OSError; ImportError where
    diffusers is not installed.
    """
    folder = Path(folder)
    if not (folder / CONFIG).exists() and (folder / "model_index.json").exists():
        folder = folder / "transformer"
    with naming(folder / CONFIG):
        config = _config(parse_json(read_bounded(folder / CONFIG, MAX_JSON_BYTES, "config")))
    paths = _weight_paths(folder, variant)
    with naming(folder), torch.no_grad():
        shapes: Shapes = {}
        for path in paths:
            with _opened(path) as file:
                shapes |= {name: entry.shape for name, entry in file.entries.items()}
        model = _empty(config, shapes)
        for path in paths:
            with _opened(path) as file:
                state = {
                    name: tensor_of(file.read(entry), FLOATS[entry.kind], entry.shape).float()
                    for name, entry in file.entries.items()
                }
            model.load_state_dict(state, strict=False, assign=True)
    return model.eval()


@contextmanager
def _opened(path: Path) -> Iterator[SafetensorsFile]:
    with naming(path), open_regular(path) as stream:
        file = SafetensorsFile(stream, os.fstat(stream.fileno()).st_size)
        odd = [f"{n} ({e.kind})" for n, e in file.entries.items() if e.kind not in FLOATS]
        if odd:
            raise ValueError(f"tensors that are not {', '.join(FLOATS)}: {first(odd)}")
        yield file


def _config(config: Any) -> dict[str, Any]:
    if not isinstance(config, dict) or config.get("_class_name") not in CLASSES:
        kind = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"describes a {kind!r:.80}, wanted a {CLASSES[0]}")
    if config["_class_name"] != CLASSES[0] and config.get("norm_type") != "ada_norm_zero":
        raise ValueError("describes a Transformer2DModel that is no DiT")
    for name, most in MAX_SIZES.items():
        value = config.get(name)
        if value is not None and not (type(value) is int and 0 < value <= most):
            raise ValueError(f"{name} is {value!r:.40}, wanted 1..{most}")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _weight_paths(folder: Path, variant: str) -> list[Path]:
    stem = f"{WEIGHTS}.{variant}" if variant else WEIGHTS
    whole, index = folder / f"{stem}.safetensors", _index_path(folder, variant)
    if whole.exists() or not index.exists():
        if not whole.exists():
            there = first(sorted(p.name for p in folder.iterdir()), 8)
            raise ValueError(
                f"{folder}: no {whole.name}, nor {index.name}; it has {there}. Save it with "
                "save_pretrained(folder), or give its variant"
            )
        return [whole]
    with naming(index):
        content = parse_json(read_bounded(index, MAX_JSON_BYTES, "index"))
        shards = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise ValueError("no weight_map in it")
        names = sorted({name for name in shards.values() if isinstance(name, str)})
        # Nothing outside the folder: names come from the file.
        odd = [name for name in shards.values() if type(name) is not str or Path(name).name != name]
        if odd or len(names) > 1000:
            raise ValueError(f"shards are not files of the folder: {odd[:1]!r:.80}")
    return [folder / name for name in names]


def _index_path(folder: Path, variant: str) -> Path:
    return folder / f"{WEIGHTS}.safetensors.index{'.' + variant if variant else ''}.json"


def _empty(config: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    """The model without weights, its shapes checked to be the file's; only tables are filled in."""
    with torch.device("meta"):
        model = _built(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    reasons = {
        "missing": [name for name in expected if name not in shapes],
        "unexpected": [name for name in shapes if name not in expected],
        "mis-shaped": [n for n, shape in expected.items() if shapes.get(n, shape) != shape],
    }
    if any(reasons.values()):
        text = "; ".join(f"{what}: {first(names)}" for what, names in reasons.items() if names)
        raise ValueError(f"the weights are not those of {CONFIG}. {text}")
    # Tables that no file holds, such as positions: those of one block's model are the same.
    with torch.device("cpu"):
        tables: dict[str, Tensor] = dict(_built({**config, "num_layers": 1}).named_buffers())
    for name, buffer in list(model.named_buffers()):
        if name not in expected and name in tables:
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner).register_buffer(attribute, tables[name], persistent=False)
        elif name not in expected and buffer.is_meta:
            raise ValueError(f"no values for {name}; use diffusers' from_pretrained")
    return model


def _built(config: Mapping[str, Any]) -> nn.Module:
    try:
        from diffusers import DiTTransformer2DModel
    except ImportError as error:
        raise ImportError(
            "a folder of diffusers needs diffusers: pip install diffusers", name=error.name
        ) from error
    try:
        model: nn.Module = DiTTransformer2DModel.from_config(dict(config))  # type: ignore[no-untyped-call]
    # Many kinds come out of a constructor that is given values of other kinds.
    except Exception as error:
        raise ValueError(f"{CONFIG} describes no model: {error}") from error
    return model
